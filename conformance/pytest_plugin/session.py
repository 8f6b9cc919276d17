"""What a pytest session has measured so far, and the stream on which it tells the scheduler."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..core.result import END_OF_CHECK, Result


class Run:
    """What this session has found so far, and the stream to which it tells it.

    Attributes:
        records: of the checks that ended.
        failed: (rung, subject or None) that failed here or, as the runner says, before.
    """

    def __init__(self, stream: Path | None, failed: str | None) -> None:
        self.records: list[Result] = []
        self.stream = stream
        self.failed: set[tuple[int, str | None]] = set()
        for word in failed.split(",") if failed else ():
            rung, _, subject = word.partition(":")
            self.failed.add((int(rung), subject or None))

    def tell(self, event: dict[str, Any]) -> None:
        """Append one event, complete before the next statement runs, so that a crash loses nothing."""
        # Into the runner's pipe, that is: in a session whose stream is a file nobody reads the marks.
        if self.stream is not None and event["event"] == "result" and self.stream.is_fifo():
            os.write(2, END_OF_CHECK + event["id"].encode() + b"\n")
        if self.stream is not None:
            with self.stream.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")

    def add(self, record: Result) -> None:
        """Keep the record of an ended check."""
        self.records.append(record)
        if record.status in ("fail", "error"):
            self.failed.add((record.rung, record.subject))

    @property
    def ended(self) -> set[str]:
        """The ids of the checks that ended."""
        return {record.id for record in self.records}
