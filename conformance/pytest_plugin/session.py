"""The results of a pytest session so far, and the stream of events that the scheduler reads."""

from pathlib import Path
from typing import Any

import pytest

from ..core.result import Result
from ..workers.serve import Stream

# The property of pytest's reports that carries a result.
PROPERTY = "sftref"


def results_of(report: pytest.TestReport) -> list[dict[str, Any]]:
    """The results that a report carries, as `Result.to_json` writes them."""
    return [value for name, value in report.user_properties if name == PROPERTY and isinstance(value, dict)]


class SessionResults:
    """The results of this session.

    Args:
        stream: file or pipe for events; None for none.
        failed: rungs that have failed before this session, as 2,6:mesh.

    Attributes:
        records: results of the checks that ended.
        failed: (rung, trainer or None) that failed, in this session or before.
    """

    def __init__(self, stream: Path | None, failed: str | None) -> None:
        self.records: list[Result] = []
        self.stream = None if stream is None else Stream(stream)
        self.failed: set[tuple[int, str | None]] = set()
        for word in failed.split(",") if failed else ():
            rung, _, subject = word.partition(":")
            self.failed.add((int(rung), subject or None))

    def tell(self, event: dict[str, Any]) -> None:
        """Append one event to the stream."""
        if self.stream is not None:
            self.stream.tell(event)

    def add(self, record: Result) -> None:
        """Store a result."""
        self.records.append(record)
        if record.status in ("fail", "error"):
            self.failed.add((record.rung, record.subject))

    @property
    def ended(self) -> set[str]:
        """The ids of the checks that ended."""
        return {record.id for record in self.records}
