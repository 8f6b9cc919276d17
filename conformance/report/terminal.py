"""A run in progress -> lines in a terminal: the ladder, failures with their next steps, progress, the verdict.

Colours come from rich, if it is installed and the output is a terminal.
"""

import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..core.settings import Settings
from ..judge.mutation_score import fates
from ..judge.outcome import BROKEN, Group, Outcome
from ..judge.verdict import Verdict, self_test
from ..machine.findings import Finding
from .checks import GLYPHS, counted, failure, state_of
from .document import check

# Seconds of silence after which a line says what is running.
EVERY = 10.0
ASCII = {"good": "ok", "bad": "XX", "idle": "--"}
STYLES = {"good": "green", "bad": "bold red", "idle": "yellow"}
# The most failures of one rung that are printed in full; the report has all of them.
MOST_SHOWN = 3


def line(group: Group, glyphs: Mapping[str, str] = GLYPHS) -> str:
    """A group of checks -> its line of the ladder."""
    statuses = [record.status for record in group.records]
    state = state_of(statuses)
    reasons = list(dict.fromkeys(r.message for r in group.records if r.status in ("blocked", "not_run")))
    why = f" ({reasons[0]}{' ...' if len(reasons) > 1 else ''})" if reasons and state != "bad" else ""
    made = sum(record.comparisons for record in group.records)
    comparisons = f", {made:,} comparison{'s' if made > 1 else ''}" if made else ""
    return f"{glyphs[state]:<2} {group.title:<24} {counted(statuses)}{why}{comparisons}, {group.seconds:.1f} s"


def failures(group: Group) -> Iterator[str]:
    """The first failed checks of a group, in lines of text."""
    broken = [record for record in group.records if record.status in BROKEN]
    for record in broken[:MOST_SHOWN]:
        yield from (f"     {text}" for text in failure(check(record, group.records)))
    if len(broken) > MOST_SHOWN:
        yield f"     and {len(broken) - MOST_SHOWN} more; see the report"


def ladder(outcome: Outcome) -> Iterator[str]:
    """The lines of all groups, with their failures, for the end of a pytest session."""
    for group in outcome.groups():
        yield line(group)
        yield from failures(group)


class Screen:
    """The `Progress` of a terminal: results on stdout, progress on stderr.

    Args:
        settings: the settings of the run.
        before: check -> its seconds in an earlier run like this one, from which the time left is estimated.
    """

    def __init__(self, settings: Settings, before: Mapping[str, float]) -> None:
        self.settings, self.before = settings, before
        self.ids: Sequence[str] = ()
        self.began = self.printed = time.monotonic()
        # The number of checks that had ended when the last one did, that time, and the seconds left by then.
        self.ended, self.since, self.left = 0, self.began, 0.0
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        self.glyphs = GLYPHS if _encodes("".join(GLYPHS.values())) else ASCII
        self.console = _console()

    def begin(self, ids: Sequence[str]) -> None:
        """Print how many checks will run, and for which trainers."""
        self.ids = ids
        checks = f"{len(ids)} check{'' if len(ids) == 1 else 's'}"
        self._print(f"{checks} at level {self.settings.level}, trainers {', '.join(self.settings.subjects)}", "dim")

    def findings(self, findings: Sequence[Finding]) -> None:
        """Print the problems of the machine, except notes."""
        for finding in [finding for finding in findings if finding.level != "note"]:
            state = "bad" if finding.level == "broken" else "idle"
            self._print(f"{self.glyphs['bad']:<2} {finding.level}: {finding.what}", STYLES[state])
            self._print(f"     next step: {finding.next}")

    def rung(self, group: Group) -> None:
        """Print the line of a rung whose checks have ended, and its failures."""
        self._print(line(group, self.glyphs), STYLES[state_of([record.status for record in group.records])])
        for text in failures(group):
            self._print(text)

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        """Print to stderr what is running, if nothing was printed for ten seconds."""
        now = time.monotonic()
        if len(done) != self.ended:
            # A check that no earlier run timed counts as an average one.
            average = sum(self.before.values()) / len(self.before) if self.before else 1.0
            weights = {check: self.before.get(check, average) for check in self.ids}
            over, total = sum(weights[check] for check in done), sum(weights.values())
            self.left = (now - self.began) * (total - over) / over if over else 0.0
            self.ended, self.since = len(done), now
        if now - self.printed < EVERY:
            return
        self.printed, seconds = now, now - self.began
        # While a check hangs, the estimate must not grow.
        rest = self.left - (now - self.since)
        left = f", about {rest:.0f} s left" if self.left and rest > 0 else ""
        counts = f"{len(done)} of {len(self.ids)} checks done"
        print(f"   {seconds:.0f} s: {counts}{left}; now {', '.join(running)}", file=sys.stderr, flush=True)

    def trying(self, what: str) -> None:
        """Print which rerun begins."""
        self._print(f"{self.glyphs['idle']:<2} {what}", "dim")

    def seeded_faults(self, outcome: Outcome) -> None:
        """Print, in a line of the ladder, how many seeded faults were seen; then the faults that were not seen."""
        results = fates(outcome)
        if not results:
            return
        missed = [fate for fate in results if fate.status == "survived"]
        idle = [fate for fate in results if fate.status == "not_run"]
        state = "bad" if missed else "good" if len(idle) < len(results) else "idle"
        text = f"{self_test(outcome)}{f', {len(idle)} not run ({idle[0].message})' if idle else ''}"
        seconds = sum(fate.seconds for fate in results)
        self._print(f"{self.glyphs[state]:<2} {'self-test':<24} {text}, {seconds:.1f} s", STYLES[state])
        for fate in missed[:MOST_SHOWN]:
            self._print(f"     {fate.fault.id} ({fate.fault.does}): {fate.message}")

    def diagnosis(self, diagnosis: Mapping[str, Any] | None) -> None:
        """Print the faulty layer, the first pieces of evidence, and the next step."""
        if diagnosis is None:
            return
        self._print(f"diagnosis: {diagnosis['layer']}: {diagnosis['cause']}", STYLES["bad"])
        for text in diagnosis["evidence"][:MOST_SHOWN]:
            self._print(f"     {' '.join(text.split())[:300]}")
        self._print(f"     next step: {diagnosis['next_step']}")

    def verdict(self, verdict: Verdict, where: str) -> None:
        """Print the line of the verdict, the last one of a run."""
        self._print(f"{verdict.line}{where}", "bold green" if verdict.exit_code == 0 else "bold red")

    def _print(self, text: str, style: str | None = None) -> None:
        self.printed = time.monotonic()
        if self.console is None:
            print(text, flush=True)
        else:
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _console() -> Any:
    """A `rich.console.Console`; None without rich or a terminal."""
    with contextlib.suppress(ImportError):
        from rich.console import Console

        return Console() if sys.stdout.isatty() else None
    return None


def _encodes(text: str) -> bool:
    """Whether the encoding of stdout has all characters of a text."""
    with contextlib.suppress(UnicodeEncodeError, LookupError):
        return bool(text.encode(getattr(sys.stdout, "encoding", None) or "ascii"))
    return False
