"""deviations.toml -> the known failures, each with its reason, issue, scope and last day.

The check of a known failure still runs. If it fails, its status is `deviation`, which does not fail the run. If it
passes, or the entry has expired or matches no check, the run fails, so that the list stays up to date.

docs/how-it-works.md has an example of an entry. A scope has at most `{ platform = "rocm", subject = "mesh" }`.
"""

import dataclasses
import datetime
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .law import laws
from .result import Result
from .settings import PLATFORMS

FIELDS = ("id", "reason", "issue", "expires")


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One known failure, as its entry in the file states it."""

    id: str  # the id of a law, or of a check: a law with a trainer under test in brackets
    reason: str  # what goes wrong
    issue: str  # where the failure is tracked
    expires: datetime.date  # the last day on which the failure is accepted
    subject: str | None = None  # the only trainer under test that has the failure; None for any
    platform: str | None = None  # the only platform that has the failure; None for any

    def covers(self, record: Result, platforms: Sequence[str]) -> bool:
        """Whether this entry is about the check of `record`, on a machine whose platform has these names."""
        if self.subject is not None and record.subject != self.subject:
            return False
        return self.id in (record.id, record.law) and (self.platform is None or self.platform in platforms)

    def to_json(self) -> dict[str, Any]:
        """The entry in the report."""
        return {**dataclasses.asdict(self), "expires": self.expires.isoformat()}


def load(path: Path) -> list[Deviation]:
    """Read a file of deviations; a ValueError names the entry with a missing, unknown or impossible field."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"--deviations {path}: cannot be read ({reason})") from error
    entries = content.pop("deviation", [])
    if content or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        odd = ", ".join(content) or "deviation"
        raise ValueError(f"--deviations {path}: has {odd}, must have [[deviation]] entries only")
    return [_deviation(f"--deviations {path}: entry {number}", entry) for number, entry in enumerate(entries, 1)]


def _deviation(where: str, entry: dict[str, Any]) -> Deviation:
    scope = entry.pop("scope", {})
    for name in FIELDS:
        kind, wanted = (datetime.date, "a date such as 2030-01-31") if name == "expires" else (str, "a text")
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, datetime.datetime) or not value:
            raise ValueError(f"{where}: {name} = {value!r}, must be {wanted}")
    unknown = sorted(set(entry) - set(FIELDS))
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is unknown, must be one of {', '.join(FIELDS)}, scope")
    if not isinstance(scope, dict) or not all(isinstance(value, str) for value in scope.values()):
        raise ValueError(f"{where}: scope = {scope!r}, must be a table of texts")
    if set(scope) - {"subject", "platform"} or scope.get("platform", "cpu") not in PLATFORMS:
        raise ValueError(f"{where}: scope = {scope!r}, must be of subject, platform ({', '.join(PLATFORMS)})")
    return Deviation(**entry, **scope)


def accepted(deviations: Iterable[Deviation], record: Result, platforms: Sequence[str], today: datetime.date) -> Result:
    """The same result, or one with status `deviation` if it is a failure that a deviation covers today."""
    if record.status not in ("fail", "error", "hang", "crash"):
        return record
    known = next((d for d in deviations if d.covers(record, platforms) and today <= d.expires), None)
    if known is None:
        return record
    message = f"known deviation ({known.reason}; {known.issue}), seen again as {record.status}: {record.message}"
    return dataclasses.replace(record, status="deviation", message=message)


def stale(
    deviations: Iterable[Deviation], results: Sequence[Result], subjects: Collection[str], platforms: Sequence[str],
    today: datetime.date,
) -> list[str]:  # fmt: skip
    """One message for each deviation that matches no check, has expired, or whose check passes."""
    messages = []
    for known in deviations:
        law, _, subject = known.id.partition("[")
        statuses = {result.status for result in results if known.covers(result, platforms)}
        if law not in laws() or (subject and subject.removesuffix("]") not in subjects):
            messages.append(f"{known.id} matches nothing")
        elif today > known.expires:
            messages.append(f"{known.id} expired on {known.expires}")
        elif "pass" in statuses and "deviation" not in statuses:
            messages.append(f"{known.id} passes")
    return messages
