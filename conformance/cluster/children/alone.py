"""One host alone: rungs 0 to 5 on its own devices, with no communication with others, as `verify` runs them."""

import sys
from collections.abc import Collection, Sequence
from typing import Any

from ...core.settings import Settings
from ...judge.outcome import BROKEN, Group
from ...machine.findings import Finding
from ...run.verify import verify

# Facts of a result that a verdict needs.
FACTS = ("adapter_frames", "out_of_memory", "unclaimed")


class Alone:
    """Runs the checks in a child of an agent; `verify` starts further children, which end with it."""

    def run(self, settings: Settings) -> dict[str, Any]:
        """Run the checks of `settings`; returns their results, and the problems of child processes.

        `checks`: for one that passed [comparisons, compared, seconds], for others the whole result.
        """
        outcome = verify(settings, [], None, _Log())
        return {
            "checks": {record.id: short(record.to_json()) for record in outcome.ended()},
            "setup": outcome.setup,
            "troubles": [*outcome.troubles, *(f"outlived the run: {one}" for one in outcome.outlived)],
            "findings": [vars(finding) for finding in outcome.findings if finding.level != "note"],
        }


def short(result: dict[str, Any]) -> Any:
    """What process 0 needs of a result."""
    if result["status"] == "pass":
        return [result["comparisons"], result["compared"], result["seconds"]]
    return result | {"facts": {name: value for name, value in result["facts"].items() if name in FACTS}}


class _Log:
    """The `Progress` of a child: lines on stderr, which the agent keeps in its log."""

    def begin(self, ids: Sequence[str]) -> None:
        """Print how many checks run."""
        self._print(f"alone: {len(ids)} checks")

    def findings(self, findings: Sequence[Finding]) -> None:
        """Print the problems of the machine."""
        for finding in findings:
            self._print(f"alone: {finding.level}: {finding.what}")

    def rung(self, group: Group) -> None:
        """Print how the checks of a rung ended."""
        broken = [record for record in group.records if record.status in BROKEN]
        self._print(f"alone: {group.title}: {len(group.records) - len(broken)} of {len(group.records)} without error")
        for record in broken:
            self._print(f"alone: {record.id}: {record.status}: {record.message[:300]}")

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        """Print nothing."""

    def trying(self, what: str) -> None:
        """Print which rerun begins."""
        self._print(f"alone: {what}")

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
