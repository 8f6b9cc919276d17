"""Checks -> their state, the text of a failure, and the block of a report that shows them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.result import printable
from ..core.sections import escape, inline
from ..judge.outcome import BROKEN
from .pictures import scale

Check = Mapping[str, Any]
WORDS = {
    "pass": "passed", "fail": "failed", "error": "in error", "hang": "hung", "crash": "crashed",
    "blocked": "blocked", "not_run": "not run", "deviation": "known deviation",
}  # fmt: skip
GLYPHS = {"good": "✓", "bad": "✗", "idle": "·"}
# The most lines of a message in a terminal; report.html and report.md have the whole message.
MOST_LINES = 8
# Details that keep their lines.
PREFORMATTED = ("stderr", "last frames of the adapter")
AXIS = (
    "All scales run from 1e-17 to 1e3. Dot: the measured error. Bar: its bound, with everything beyond it tinted. "
    "Dashed tick: the noise expected of correct arithmetic. Triangle: the detection floor, the smallest error that "
    "this check sees. Cross: the control, a comparison that must fail."
)


def state_of(statuses: Collection[str]) -> str:
    """Statuses of checks -> `bad` if any is broken, else `good` if any passed, else `idle`."""
    if any(status in BROKEN for status in statuses):
        return "bad"
    return "good" if "pass" in statuses else "idle"


def counted(statuses: Sequence[str]) -> str:
    """How many checks ended in which way: `3 passed, 1 failed`."""
    return ", ".join(f"{statuses.count(status)} {word}" for status, word in WORDS.items() if status in statuses)


def failure(check: Check) -> list[str]:
    """A failed check in lines of text: its requirement, what happened, and what to do."""
    lines = [f"{check['id']} {WORDS[check['status']]}: {check['requirement']}"]
    lines += [f"  {part}" for part in check["message"].splitlines() if part.strip()][:MOST_LINES]
    lines += [f"  likely cause: {check['cause']}", f"  next step: {check['next_step']}"]
    return [*lines, f"  reproduce: {check['repro']}"] if check["repro"] else lines


def _details(check: Check) -> Iterator[tuple[str, str]]:
    """(name, text) of everything that is known about a check."""
    yield "requirement", check["requirement"]
    if check["message"]:
        yield "message", check["message"]
    if state_of([check["status"]]) == "bad":
        yield "likely cause", check["cause"]
        yield "next step", check["next_step"]
    if check["measured"] is not None:
        yield "worst comparison", f"{check['worst']}: error {check['measured']:.3g}"
        yield "bound", f"{check['bound']:.3g}{f' ({why})' if (why := check['bound_from']) else ''}"
        if check["noise"]:
            yield "expected of correct arithmetic", f"{check['noise']:.2g}"
        if check["control"] is not None:
            yield "control, which must fail", f"{check['control']:.3g}"
    for dtype, floor in check["facts"].get("floor", {}).items():
        # JSON has no infinity, so an infinite floor is a text.
        values = {name: float(floor[name]) for name in ("all", "tensor", "element") if floor.get(name)}
        parts = ", ".join(f"{name} {value:.2g}" for name, value in values.items())
        if parts:
            yield f"detection floor, {dtype}", f"{parts} (noise {floor.get('noise') or 0:.2g})"
    yield "detects", "; ".join(check["catches"])
    if check["comparisons"]:
        yield "compared", f"{check['compared']:,} numbers in {check['comparisons']:,} comparisons"
    if check["facts"].get("adapter_frames"):
        yield "last frames of the adapter", "\n".join(check["facts"]["adapter_frames"])
    if check["facts"].get("stderr"):
        yield "stderr", "\n".join(check["facts"]["stderr"])
    if check["repro"]:
        yield "reproduce", check["repro"]


@dataclass(frozen=True)
class Checks:
    """All checks: HTML shows each of them behind filters, Markdown only those that failed."""

    checks: Sequence[Check]

    def markdown(self) -> str:
        """A heading, the message and the details of each failed check."""
        parts = []
        for check in self.checks:
            if state_of([check["status"]]) == "bad":
                parts.append(f"### `{check['id']}` ({WORDS[check['status']]})")
                parts += [_markdown_detail(name, text) for name, text in _details(check)]
        return "\n\n".join(parts)

    def html(self) -> str:
        """The filters, which `page.js` applies, then the checks; failed checks come first, with their details open."""
        ended = {check["status"] for check in self.checks}
        rungs = sorted({(check["rung"], check["rung_name"]) for check in self.checks})
        trainers = sorted({check["subject"] for check in self.checks if check["subject"]})
        filters = [
            f'<p class="quiet">{AXIS}</p>',
            '<div class="filters" role="search">',
            '<label>words<input id="words" type="search" placeholder="gradient, step.update"></label>',
            _options("status", "status", {status: word for status, word in WORDS.items() if status in ended}),
            _options("rung", "rung", {rung: f"{rung} {name}" for rung, name in rungs}),
            _options("subject", "trainer", {trainer: trainer for trainer in trainers}),
            '<button id="open" type="button">open or close all</button>',
            '<button id="clear" type="button">clear</button>',
            '<span id="count" role="status" class="quiet"></span></div>',
        ]
        failed_first = sorted(self.checks, key=lambda check: state_of([check["status"]]) != "bad")
        return "\n".join([*filters, *map(_html, failed_first)])


def _markdown_detail(name: str, text: str) -> str:
    if name == "reproduce" and "`" not in text:
        return f"- {name}: `{text}`"
    if name not in ("message", *PREFORMATTED):
        return f"- {name}: {inline(text)}"
    fence = "````" if "```" in text else "```"
    return f"{fence}\n{printable(text)}\n{fence}"


def _options(name: str, label: str, values: Mapping[Any, str]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(words)}</option>' for value, words in values.items())
    return f'<label>{label}<select id="{name}"><option value="">all</option>{options}</select></label>'


def _html(check: Check) -> str:
    state = state_of([check["status"]])
    same = "the same bits" if check["bound"] == 0 and state == "good" else ""
    margin = f"{check['margin']:.2g} of its bound" if check["bound"] else same
    details = ""
    for name, text in _details(check):
        shown = f"<pre>{escape(text)}</pre>" if name in (*PREFORMATTED, "reproduce") else escape(text)
        details += f"<dt>{escape(name)}</dt><dd>{shown}</dd>"
    return (
        f'<details class="check" data-status="{check["status"]}" data-rung="{check["rung"]}" '
        f'data-subject="{escape(check["subject"] or "")}"{" open" if state == "bad" else ""}><summary>'
        f'<span class="{state}">{GLYPHS[state]} {WORDS[check["status"]]}</span><code>{escape(check["id"])}</code>'
        f"{scale(check)}<small>{margin}</small></summary><div><dl>{details}</dl></div></details>"
    )
