"""The end of a check -> its record: the form in which results travel between processes and into the report."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .check import Check, NotRunReason
from .comparison import Comparison
from .facts import Facts
from .law import Law, check_id

STATUSES = ("pass", "fail", "error", "hang", "crash", "blocked", "not_run", "deviation")
# XLA's autotuner says so when two of its kernels disagree, and goes on (jax-ml/jax#26846).
MISMATCH = "Results mismatch"
# Comparisons that held before one failed, which a record names.
MOST_HELD = 4


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one check found.

    Attributes:
        id: of the check: the law's, with the subject in brackets.
        law: its id.
        rung: of the ladder.
        subject: the trainer asked, or None.
        status: one of `STATUSES`.
        message: what went wrong, or why it did not run; empty for a pass.
        measured: the error of the comparison with the largest margin.
        bound: the bound of that comparison.
        noise: the error expected of correct arithmetic there.
        control: the error of a comparison that must fail, the nearest to its bound.
        comparisons: how many were made.
        compared: how many numbers they compared.
        digest: of every comparison's error, in order: the same in two runs that measured the same bits.
        seconds: from the check's start to its end.
        facts: measured along the way.
        reason: why it did not run; internal, not in report.json.
        repro: the command that asks this check again.
    """

    id: str
    law: str
    rung: int
    subject: str | None
    status: str
    message: str = ""
    measured: float | None = None
    bound: float | None = None
    noise: float | None = None
    control: float | None = None
    comparisons: int = 0
    compared: int = 0
    digest: str = ""
    margin: float | None = None
    median_margin: float | None = None
    worst: str = ""
    bound_from: str = ""
    seconds: float = 0.0
    facts: Facts = field(default_factory=Facts)
    reason: NotRunReason | None = None
    repro: str = ""

    @classmethod
    def of(
        cls,
        law: Law,
        subject: str | None,
        check: Check | None,
        error: BaseException | None,
        seconds: float,
        stderr: str,
    ) -> Result:
        """The record of a check that ended with `error`, or with None, in this process."""
        status, message = "pass", ""
        if error is not None:
            # By attribute, not by class: a vendored copy and the installed kit are two modules.
            status = getattr(error, "status", "error")
            message = str(error) if hasattr(error, "status") else f"{type(error).__name__}: {error}"
        elif MISMATCH in stderr:
            line = next(line for line in stderr.splitlines() if MISMATCH in line)
            status, message = "fail", f"XLA's autotuner found kernels that disagree: {line.strip()[:300]}"
        reason = getattr(error, "reason", None) if status == "not_run" else None
        blank = cls.ended(law, subject, status, message, seconds, reason)
        if check is None:
            return blank
        made = check.comparisons
        if status == "fail":
            # Repeated values are of no interest: what was compared is.
            held = dict.fromkeys(found.what for found in made if found.error <= found.bound.value)
            check.facts["held_before"] = list(held)[-MOST_HELD:]
        worst = check.worst
        if worst is None:
            return dataclasses.replace(blank, facts=check.facts)
        margins = sorted(found.margin for found in made if found.bound.value > 0)
        controls = [found for found in made if found.control is not None]
        nearest = min(controls, key=lambda found: _over(found.control, found.bound.value), default=None)
        return dataclasses.replace(
            blank,
            measured=_finite(worst.error),
            bound=_finite(worst.bound.value),
            noise=_finite(worst.bound.noise),
            control=None if nearest is None else _finite(nearest.control),
            comparisons=len(made),
            compared=sum(found.compared for found in made),
            digest=_digest(made),
            margin=_finite(worst.margin),
            median_margin=_finite(margins[len(margins) // 2]) if margins else None,
            worst=worst.what,
            bound_from=worst.bound.why,
            facts=check.facts,
        )

    @classmethod
    def ended(
        cls, law: Law, subject: str | None, status: str, message: str, seconds: float,
        reason: NotRunReason | None = None,
    ) -> Result:  # fmt: skip
        """The record of a check that could not tell its own end: a hang, a crash, or never reached."""
        return cls(
            id=check_id(law.id, subject), law=law.id, rung=law.rung, subject=subject, status=status,
            message=printable(message).strip(), seconds=round(seconds, 3), reason=reason,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As it travels; facts may hold NumPy's numbers."""
        return dataclasses.asdict(self) | {"facts": plain(self.facts)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """Back from `to_json`."""
        reason = value.get("reason")
        return cls(**value | {"reason": None if reason is None else NotRunReason(reason)})


def _digest(made: Sequence[Comparison]) -> str:
    errors = "\n".join(f"{found.what} {float(found.error).hex()}" for found in made)
    return hashlib.sha256(errors.encode()).hexdigest()[:16]


def _over(value: float | None, bound: float) -> float:
    return math.inf if value is None else value / bound if bound > 0 else value


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: the largest float stands for it."""
    if value is None or math.isfinite(value):
        return value
    return sys.float_info.max


def printable(text: str) -> str:
    """Text that a terminal and a report can take: what is neither printable nor white space becomes a question mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def plain(value: Any) -> Any:
    """JSON's own values: numbers that JSON does not have become texts, and what it cannot hold its description."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (str, bool, type(None))):
        return value
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)
