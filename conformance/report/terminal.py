"""A run as it goes -> lines for a person: the ladder, what failed and what to do, progress, the verdict.

Colours come from rich where it is installed and the output is a terminal; a copy of the kit needs neither.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.law import laws
from ..core.result import Result
from ..core.settings import Settings
from ..judge.advice import advice
from ..judge.mutation_score import fates
from ..judge.outcome import BROKEN, Group, Outcome
from ..judge.verdict import Verdict, self_test
from ..machine.findings import Finding

if TYPE_CHECKING:
    from rich.console import Console

# Seconds of silence after which a line says what is being done.
EVERY = 10.0
WORDS = {
    "pass": "passed", "fail": "failed", "error": "in error", "hang": "hung", "crash": "crashed",
    "blocked": "blocked", "not_run": "not run", "deviation": "known deviation",
}  # fmt: skip
GLYPHS = {"good": ("✓", "ok"), "bad": ("✗", "XX"), "idle": ("·", "--")}
STYLES = {"good": "green", "bad": "bold red", "idle": "yellow"}
# Failures of one rung told in full; the report has all of them.
MOST_TOLD = 3


def mood(group: Group) -> str:
    """Whether a line of the ladder is good, bad, or did not run."""
    if group.count(*BROKEN):
        return "bad"
    return "good" if group.count("pass", "deviation") else "idle"


def line(group: Group, *, ascii_only: bool = False) -> str:
    """A group -> its line of the ladder."""
    glyph = GLYPHS[mood(group)][ascii_only]
    who = f"{group.rung} {group.name}" + (f" [{group.subject}]" if group.subject else "")
    said = ", ".join(f"{group.count(status)} {word}" for status, word in WORDS.items() if group.count(status))
    reasons = list(dict.fromkeys(r.message for r in group.records if r.status in ("blocked", "not_run")))
    if reasons and mood(group) != "bad":
        said += f" ({reasons[0]}{' ...' if len(reasons) > 1 else ''})"
    made = group.comparisons
    comparisons = f", {made:,} comparison{'s' if made > 1 else ''}" if made else ""
    return f"{glyph:<2} {who:<24} {said}{comparisons}, {group.seconds:.1f} s"


def failure(record: Result) -> list[str]:
    """A check that did not do what its law demands -> what, what it means, and what to do."""
    law = laws()[record.law]
    said = [f"{record.id} {WORDS[record.status]}: {law.requirement}"]
    said += [f"  {part}" for part in record.message.splitlines() if part.strip()][:8]
    cause, next_step = advice(record)
    said += [f"  likely cause: {cause}", f"  next step: {next_step}"]
    return [*said, f"  again: {record.repro}"] if record.repro else said


def ladder(outcome: Outcome, *, ascii_only: bool = False) -> Iterator[str]:
    """All lines at once, for the end of a session."""
    for group in outcome.groups():
        yield line(group, ascii_only=ascii_only)
        broken = [record for record in group.records if record.status in BROKEN]
        for record in broken[:MOST_TOLD]:
            yield from (f"     {text}" for text in failure(record))


class Progress:
    """Says on stderr what is waited for, every ten seconds."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = self.spoke = time.monotonic()

    def __call__(self, phase: str) -> None:
        """Wait for this."""
        now = time.monotonic()
        if now - self.spoke > EVERY:
            self.spoke = now
            print(f"   {now - self.began:.0f} s: {self.what}: {phase}", file=sys.stderr, flush=True)


class Screen:
    """Tells a person how the run goes: results on stdout, progress on stderr.

    Args:
        settings: what is asked.
        before: seconds of each check in an earlier run like this one, by which the time left is estimated.
    """

    def __init__(self, settings: Settings, before: Mapping[str, float]) -> None:
        self.settings, self.before = settings, before
        self.ids: Sequence[str] = ()
        self.began = self.spoke = time.monotonic()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        self.ascii_only = not _can_say(GLYPHS["good"][0] + GLYPHS["bad"][0])
        self.console = _console()

    def begin(self, ids: Sequence[str]) -> None:
        """See `Watcher`."""
        self.ids = ids
        trainers = ", ".join(self.settings.subjects)
        self._say(
            f"{len(ids)} check{'' if len(ids) == 1 else 's'} at level {self.settings.level}, trainers {trainers}", "dim"
        )

    def found(self, findings: Sequence[Finding]) -> None:
        """See `Watcher`."""
        for finding in findings:
            if finding.level != "note":
                style = STYLES["bad" if finding.level == "broken" else "idle"]
                self._say(f"{GLYPHS['bad'][self.ascii_only]:<2} {finding.level}: {finding.what}", style)
                self._say(f"     next step: {finding.next}", None)

    def rung(self, group: Group) -> None:
        """See `Watcher`."""
        self._say(line(group, ascii_only=self.ascii_only), STYLES[mood(group)])
        broken = [record for record in group.records if record.status in BROKEN]
        for record in broken[:MOST_TOLD]:
            for text in failure(record):
                self._say(f"     {text}", None)
        if len(broken) > MOST_TOLD:
            self._say(f"     and {len(broken) - MOST_TOLD} more, which the report tells", None)

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        """See `Watcher`."""
        now = time.monotonic()
        if now - self.spoke < EVERY:
            return
        self.spoke = now
        gone = now - self.began
        # Where no earlier run says better, one check is as long as another.
        usual = sum(self.before.values()) / len(self.before) if self.before else 1.0
        weights = {check: self.before.get(check, usual) for check in self.ids}
        over, all_of_them = sum(weights[check] for check in done), sum(weights.values())
        left = f", about {gone * (all_of_them - over) / over:.0f} s left" if 0 < over < all_of_them else ""
        said = f"{gone:.0f} s: {len(done)} of {len(self.ids)} checks done{left}; now {', '.join(running)}"
        print(f"   {said}", file=sys.stderr, flush=True)

    def trying(self, what: str) -> None:
        """See `Watcher`."""
        self._say(f"{GLYPHS['idle'][self.ascii_only]:<2} {what}", "dim")

    def seeded_faults(self, outcome: Outcome) -> None:
        """What became of the seeded faults, in a line like those of the ladder, and those that nobody saw."""
        found = fates(outcome)
        if not found:
            return
        blind = [fate for fate in found if fate.status == "survived"]
        state = "bad" if blind else "good" if any(fate.status == "killed" for fate in found) else "idle"
        seconds = sum(fate.seconds for fate in found)
        idle = [fate for fate in found if fate.status == "not_run"]
        said = f"{self_test(outcome)}{f', {len(idle)} not run ({idle[0].message})' if idle else ''}"
        self._say(f"{GLYPHS[state][self.ascii_only]:<2} {'self-test':<24} {said}, {seconds:.1f} s", STYLES[state])
        for fate in blind[:MOST_TOLD]:
            self._say(f"     {fate.fault.id} ({fate.fault.does}): {fate.message}", None)

    def diagnosis(self, found: Mapping[str, Any] | None) -> None:
        """The layer at fault, what that rests on, and what to do, before the verdict."""
        if found is None:
            return
        self._say(f"diagnosis: {found['layer']}: {found['cause']}", STYLES["bad"])
        for text in found["evidence"][:MOST_TOLD]:
            self._say(f"     {' '.join(text.split())[:300]}", None)
        self._say(f"     next step: {found['next_step']}", None)

    def verdict(self, verdict: Verdict, where: str) -> None:
        """The last line."""
        style = "bold green" if verdict.exit_code == 0 else "bold red"
        self._say(f"{verdict.line}{where}", style)

    def _say(self, text: str, style: str | None) -> None:
        self.spoke = time.monotonic()
        if self.console is None:
            print(text, flush=True)
        else:
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console | None:
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console()


def _can_say(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
