"""A run -> report.md: the verdict, the ladder, what failed and what to do, on what, how near, how long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..core.law import RUNGS, laws
from ..core.result import Result, printable
from ..judge.advice import advice
from ..judge.outcome import BROKEN, Outcome
from ..judge.verdict import Verdict, self_test
from .document import margins
from .terminal import GLYPHS, WORDS, mood


def markdown(outcome: Outcome, verdict: Verdict, content: dict[str, Any]) -> str:
    """The file's text; `content` is that of report.json."""
    parts = [f"# {verdict.name}", _inline(verdict.line)]
    if content["diagnosis"] is not None:
        parts += _diagnosis(content["diagnosis"])
    if content["tries"] is not None:
        parts += _tries(content["tries"])
    parts += ["## The ladder", _table(("", "rung", "checks", "comparisons", "seconds"), _ladder(outcome))]
    broken = outcome.of_status(*BROKEN)
    if broken:
        parts += ["## What fell", *(text for record in broken for text in _failure(record))]
    quiet = outcome.of_status("blocked", "not_run", "deviation")
    if quiet:
        rows = [(f"`{r.id}`", WORDS[r.status], _inline(r.message)) for r in quiet]
        parts += ["## What did not run, and known deviations", _table(("check", "", "why"), rows)]
    stale, troubles = content["stale_deviations"], content["troubles"]
    if stale:
        parts += ["## Deviations that are no longer true", *(f"- {_inline(text)}" for text in stale)]
    if troubles:
        parts += ["## Processes", *(f"- {_inline(text)}" for text in troubles)]
    parts += [
        "## Margins",
        "Error over bound, of the comparisons that have a bound other than zero.",
        _margins(outcome),
    ]
    floors = _floors(outcome)
    if floors:
        parts += ["## The smallest errors that are seen", FLOORS, floors]
    parts += ["## Seeded faults", *_faults(content["faults"], outcome)]
    parts += _timing(content["timing"])
    parts += _environment(content)
    return "\n\n".join(parts) + "\n"


def _diagnosis(found: dict[str, Any]) -> Iterator[str]:
    yield "## Diagnosis"
    yield f"**{found['layer']}**: {_inline(found['cause'])}"
    yield "\n".join(f"- {_inline(text)}" for text in found["evidence"])
    yield f"Next step: {_inline(found['next_step'])}"


def _tries(found: dict[str, Any]) -> Iterator[str]:
    yield "## Settings that were tried"
    yield (
        f"One at a time, before {_inline(', '.join(found['asked']))}; without any change "
        f"{found['passed_unchanged']} of {found['unchanged']} tries passed."
    )
    rows = [(f"`{one['words']}`", one["result"], _inline(one["everything"] or one["message"])[:300], one["source"])
            for one in found["tries"]]  # fmt: skip
    if rows:
        yield _table(("setting", "", "what came of it", "source"), rows)


def _ladder(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    for group in outcome.groups():
        who = f"{group.rung} {group.name}" + (f" [{group.subject}]" if group.subject else "")
        said = ", ".join(f"{group.count(status)} {word}" for status, word in WORDS.items() if group.count(status))
        yield GLYPHS[mood(group)][0], who, said, f"{group.comparisons:,}", f"{group.seconds:.1f}"


def _failure(record: Result) -> Iterator[str]:
    law = laws()[record.law]
    yield f"### `{record.id}` ({WORDS[record.status]})"
    yield f"{law.requirement}"
    yield _code(record.message)
    if record.measured is not None:
        yield (
            f"Error {record.measured:.4g}, bound {record.bound:.4g}"
            + (f" ({_inline(record.bound_from)})" if record.bound_from else "")
            + (f", expected of correct arithmetic {record.noise:.2g}" if record.noise else "")
            + (f", control {record.control:.3g}" if record.control is not None else "")
            + f"; {record.comparisons} comparisons of {record.compared:,} numbers."
        )
    cause, next_step = advice(record)
    yield f"- Likely cause: {_inline(cause)}\n- Next step: {_inline(next_step)}\n- Again: `{record.repro}`"
    said = record.facts.get("stderr")
    if said:
        yield _code("\n".join(said))


def _faults(found: Sequence[dict[str, Any]], outcome: Outcome) -> Iterator[str]:
    said = self_test(outcome)
    yield f"{said[0].upper()}{said[1:]}{'' if outcome.settings.level == 'full' else '; `--level full` seeds all'}."
    if not found:
        return
    layers = dict.fromkeys(fault["layer"] for fault in found)
    counts = [[sum(f["layer"] == layer and f["status"] == status for f in found) for status in
               ("killed", "survived", "not_run")] for layer in layers]  # fmt: skip
    rows = [(layer, *map(str, numbers)) for layer, numbers in zip(layers, counts, strict=True)]
    yield _table(("layer", "seen", "not seen", "not run"), rows)
    rows = [(f"`{f['id']}`", _inline(f["does"]), ", ".join(f"`{law}`" for law in f["seen_by"]) or "nobody",
             _inline(f["message"])) for f in found]  # fmt: skip
    yield _table(("seeded fault", "what is wrong", "seen by", ""), rows)


FLOORS = (
    "Relative: injected into what was computed, and bisected. All: every number is off. Tensor: every number of the "
    "least sensitive comparison, which is named. Element: one of its numbers, of itself. Noise: the relative error of "
    "correct arithmetic there; 0 where the same bits are demanded."
)


def _floors(outcome: Outcome) -> str:
    rows = [
        (f"`{record.id}`", dtype, *(f"{float(found[kind]):.1e}" for kind in ("all", "tensor", "element", "noise")),
         f"{float(found['tensor']) / found['noise']:.0f}" if found["noise"] > 0 else "",
         _inline(found.get("least_sensitive", "the same bits")))
        for record in outcome.of_status("pass") for dtype, found in record.facts.get("floor", {}).items()
    ]  # fmt: skip
    head = ("check", "dtype", "all", "tensor", "element", "noise", "tensor / noise", "least sensitive")
    return _table(head, rows) if rows else ""


def _margins(outcome: Outcome) -> str:
    rows = []
    for rung, (checks, comparisons, compared, median, worst) in margins(outcome).items():
        shown = tuple("" if value is None else f"{value:.3g}" for value in (median, worst))
        rows.append((f"{rung} {RUNGS[rung]}", str(checks), f"{comparisons:,}", f"{compared:,}", *shown))
    return _table(("rung", "checks", "comparisons", "numbers compared", "median", "worst"), rows)


def _timing(found: dict[str, Any]) -> Iterator[str]:
    share = found["compile_share"]
    yield "## Time"
    yield (
        f"{found['seconds']:.1f} s from start to end; {found['check_seconds']:.1f} s in checks, of which "
        f"{found['compile_seconds']:.1f} s{'' if share is None else f' ({share:.0%})'} compiling."
    )
    rows = [(f"`{s['id']}`", f"{s['seconds']:.2f}", f"{s['compile_seconds']:.2f}") for s in found["slowest"]]
    yield _table(("slowest checks", "seconds", "of them compiling"), rows)


def _environment(content: dict[str, Any]) -> Iterator[str]:
    found, settings = content["environment"], content["settings"]
    yield "## On what"
    rows = [("kit", ", ".join(f"{name} {value}" for name, value in content["kit"].items() if value))]
    rows += [("versions", ", ".join(f"{name} {value}" for name, value in found.get("versions", {}).items()))]
    rows += [(name, str(value)) for name, value in found.get("machine", {}).items()]
    rows += [(f"driver {name}", value) for name, value in found.get("drivers", {}).items()]
    kinds = [f"{d['platform']} {d['id']} ({d['kind']})" for d in found.get("devices", ())]
    rows += [("devices", ", ".join(kinds) or "unknown"), ("runtime", found.get("platform_version", "unknown"))]
    rows += [("pmap", found["pmap"])] if "pmap" in found else []
    rows += [(name, str(value)) for name, value in found.get("config", {}).items()]
    rows += [(name, value) for name, value in found.get("variables", {}).items()]
    rows += [(f"--{name}", " ".join(value) if isinstance(value, list) else str(value))
             for name, value in settings.items() if value not in (None, [])]  # fmt: skip
    rows += [
        (f"trainer {s['label']}", ", ".join([s["adapter"], *s.get("capabilities", ())])) for s in content["subject"]
    ]
    yield _table(("", ""), [(_inline(name), _inline(value)) for name, value in rows])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)


def _inline(text: str) -> str:
    """Text in one line that Markdown leaves as it is: ids have brackets, and messages have anything."""
    text = " ".join(printable(str(text)).split())
    for mark in ("\\", "`", "*", "_", "[", "]", "<"):
        text = text.replace(mark, f"\\{mark}")
    return text


def _code(text: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}\n{printable(text)}\n{fence}"
