"""What a pytest session has measured so far, and the stream on which it tells the scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.result import Result
from ..workers.serve import Stream


class Run:
    """What this session has found so far, and the stream to which it tells it.

    Attributes:
        records: of the checks that ended.
        failed: (rung, subject or None) that failed here or, as the runner says, before.
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
        """Keep the record of an ended check."""
        self.records.append(record)
        if record.status in ("fail", "error"):
            self.failed.add((record.rung, record.subject))

    @property
    def ended(self) -> set[str]:
        """The ids of the checks that ended."""
        return {record.id for record in self.records}
