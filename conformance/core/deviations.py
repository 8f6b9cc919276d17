"""deviations.toml -> the checks that are known to fail here, each with its reason, its issue, its scope and its end.

They still run. A failure that one covers reads `deviation` and fails nothing; a deviation that passes, has expired or
matches nothing fails the run, so that the list can only hold what is true.

Example::

    [[deviation]]
    id = "collectives.psum"
    reason = "psum of bfloat16 over three devices loses the last shard"
    issue = "https://github.com/openxla/xla/issues/1"
    scope = { platform = "rocm", subject = "mesh" }
    expires = 2030-01-31
"""

from __future__ import annotations

import dataclasses
import datetime
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .law import laws
from .result import Result
from .settings import PLATFORMS

FIELDS = ("id", "reason", "issue", "expires")


class DeviationsError(ValueError):
    """A file of deviations that cannot be used; the message says which entry and which rule."""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One known failure.

    Attributes:
        id: of a law, or of a check with its subject in brackets.
        reason: what goes wrong.
        issue: where it is followed.
        expires: the last day on which it is accepted.
        subject: the only trainer it is about, or None.
        platform: the only platform it is about, or None.
    """

    id: str
    reason: str
    issue: str
    expires: datetime.date
    subject: str | None = None
    platform: str | None = None

    def names(self, record: Result, platforms: Sequence[str]) -> bool:
        """Whether it is about this check, here."""
        if self.subject is not None and record.subject != self.subject:
            return False
        return self.id in (record.id, record.law) and (self.platform is None or self.platform in platforms)

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {**dataclasses.asdict(self), "expires": self.expires.isoformat()}


def load(path: Path) -> list[Deviation]:
    """Read a file of deviations.

    Raises:
        DeviationsError: it cannot be read, or an entry lacks something or has something too much.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DeviationsError(f"--deviations {path}: cannot be read ({reason})") from error
    entries = content.pop("deviation", [])
    if content or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        odd = ", ".join(content) or "deviation"
        raise DeviationsError(f"--deviations {path}: {odd} stands there, must be [[deviation]] entries only")
    return [_one(f"--deviations {path}: entry {number}", entry) for number, entry in enumerate(entries, 1)]


def _one(where: str, entry: dict[str, Any]) -> Deviation:
    scope = entry.pop("scope", {})
    for name in FIELDS:
        kind = datetime.date if name == "expires" else str
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, datetime.datetime) or not value:
            wanted = "a date such as 2030-01-31" if name == "expires" else "a text"
            raise DeviationsError(f"{where}: {name} = {value!r}, must be {wanted}")
    unknown = sorted(set(entry) - set(FIELDS))
    if unknown:
        raise DeviationsError(f"{where}: {unknown[0]} is unknown, must be one of {', '.join(FIELDS)}, scope")
    if not isinstance(scope, dict) or not all(isinstance(value, str) for value in scope.values()):
        raise DeviationsError(f"{where}: scope = {scope!r}, must be a table of texts")
    unknown = sorted(set(scope) - {"subject", "platform"})
    if unknown or scope.get("platform", "cpu") not in PLATFORMS:
        known = f"subject, platform ({', '.join(PLATFORMS)})"
        raise DeviationsError(f"{where}: scope = {scope!r}, must be of {known}")
    return Deviation(**entry, **scope)


def covering(
    deviations: Iterable[Deviation], record: Result, platforms: Sequence[str], today: datetime.date
) -> Deviation | None:
    """The deviation that accepts a failure today, or None."""
    return next((d for d in deviations if d.names(record, platforms) and today <= d.expires), None)


def accepted(deviations: Iterable[Deviation], record: Result, platforms: Sequence[str], today: datetime.date) -> Result:
    """The record, which reads `deviation` where its failure is a known one."""
    if record.status not in ("fail", "error", "hang", "crash"):
        return record
    known = covering(deviations, record, platforms, today)
    if known is None:
        return record
    message = f"known deviation ({known.reason}; {known.issue}), seen again as {record.status}: {record.message}"
    return dataclasses.replace(record, status="deviation", message=message)


def stale(
    deviations: Iterable[Deviation],
    records: Iterable[Result],
    subjects: Iterable[str],
    platforms: Sequence[str],
    today: datetime.date,
) -> list[str]:
    """Why each deviation that is no longer true is not."""
    ended, labels = list(records), list(subjects)
    found = []
    for known in deviations:
        law, _, subject = known.id.partition("[")
        mine = [record for record in ended if known.names(record, platforms)]
        if law not in laws() or (subject and subject.removesuffix("]") not in labels):
            found.append(f"{known.id} matches nothing")
        elif today > known.expires:
            found.append(f"{known.id} expired on {known.expires}")
        elif any(record.status == "pass" for record in mine) and not any(r.status == "deviation" for r in mine):
            found.append(f"{known.id} passes")
    return found
