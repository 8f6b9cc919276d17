"""A check that ended -> its result, which is sent between processes and stored in the report as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .facts import Facts
from .law import Law, NotRunReason, check_id

if TYPE_CHECKING:
    from .check import Check  # it needs pytest, which `sftref env` does without

STATUSES = ("pass", "fail", "error", "hang", "crash", "blocked", "not_run", "deviation")
# XLA's autotuner prints this when two of its kernels disagree, and goes on (jax-ml/jax#26846).
MISMATCH = "Results mismatch"
# By this XLA says that memory ran out; the same line says how much was needed.
NO_MEMORY = "RESOURCE_EXHAUSTED"
# The most passed comparisons that the result of a failed check names.
MOST_HELD = 4


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one check."""

    id: str  # the id of the check: the law's id, with the trainer under test in brackets
    law: str  # the id of the law
    rung: int  # number of its rung
    subject: str | None  # the trainer under test, or None
    status: str  # one of `STATUSES`
    message: str = ""  # what went wrong, or why the check did not run; empty for a pass
    measured: float | None = None  # the error of the comparison with the largest margin
    bound: float | None = None  # the bound of that comparison
    noise: float | None = None  # the error expected of correct arithmetic in that comparison
    control: float | None = None  # the error of the control that came nearest to its bound
    comparisons: int = 0  # number of comparisons
    compared: int = 0  # how many numbers were compared
    digest: str = ""  # a hash of the name and the error of each comparison, in order
    margin: float | None = None  # error over bound of the comparison `worst`
    median_margin: float | None = None  # median over all comparisons with a bound above 0
    worst: str = ""  # name of the comparison with the largest margin
    bound_from: str = ""  # where the bound of `worst` comes from
    seconds: float = 0.0  # duration of the check
    facts: Facts = field(default_factory=Facts)  # further measurements
    reason: NotRunReason | None = None  # why the check did not run; not in report.json
    repro: str = ""  # the command that reruns this check

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
        """The result of a check in this process.

        `check` is None if it did not begin, `error` is the exception that ended it, if any, and `stderr` is what native
        libraries wrote meanwhile.
        """
        status, message = "pass", ""
        if error is not None:
            # Not `isinstance`: the installed kit and a copy of it have two classes of each name.
            status = getattr(error, "status", "error")
            message = str(error) if hasattr(error, "status") else f"{type(error).__name__}: {error}"
        elif MISMATCH in stderr:
            line = next(line for line in stderr.splitlines() if MISMATCH in line)
            status, message = "fail", f"XLA's autotuner found kernels that disagree: {line.strip()[:300]}"
        facts: Facts = getattr(error, "facts", Facts())
        if needed := out_of_memory(error):
            status, facts = "error", Facts(**{**facts, "out_of_memory": needed})
        reason = getattr(error, "reason", None) if status == "not_run" else None
        blank = cls.ended(law, subject, status, message, seconds, reason)
        if check is None:
            return dataclasses.replace(blank, facts=facts)
        check.facts.update(facts)
        made = check.comparisons
        if status == "fail":
            passed = dict.fromkeys(one.what for one in made if one.error <= one.bound.value)
            check.facts["held_before"] = list(passed)[-MOST_HELD:]
        worst = check.worst
        if worst is None:
            return dataclasses.replace(blank, facts=check.facts)
        margins = sorted(one.margin for one in made if one.bound.value > 0)
        controls = [(one.control / (one.bound.value or 1.0), one.control) for one in made if one.control is not None]
        nearest = min(controls, key=lambda pair: pair[0], default=(0.0, None))[1]
        errors = "\n".join(f"{one.what} {float(one.error).hex()}" for one in made)
        return dataclasses.replace(
            blank,
            measured=_finite(worst.error),
            bound=_finite(worst.bound.value),
            noise=_finite(worst.bound.noise),
            control=_finite(nearest),
            comparisons=len(made),
            compared=sum(one.compared for one in made),
            digest=hashlib.sha256(errors.encode()).hexdigest()[:16],
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
        """The result of a check that compared nothing, or whose process cannot report its end."""
        return cls(
            id=check_id(law.id, subject), law=law.id, rung=law.rung, subject=subject, status=status,
            message=printable(message).strip(), seconds=round(seconds, 3), reason=reason,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The result as a dict for JSON; NumPy's numbers in facts become plain ones."""
        return dataclasses.asdict(self) | {"facts": plain(self.facts)}

    @property
    def judged(self) -> bool:
        """Whether the check says something about results: not if the adapter raised, or if memory ran out."""
        return not {"adapter_frames", "out_of_memory"} & self.facts.keys()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        """The inverse of `to_json`."""
        return cls(**value | {"reason": NotRunReason(value["reason"]) if value.get("reason") else None})


def out_of_memory(error: BaseException | None) -> str:
    """The line of an exception, or of its causes, by which memory ran out on a device or the host; else empty."""
    while error is not None:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        line = next((line for line in str(error).splitlines() if NO_MEMORY in line), "")
        if line or kinds & {"MemoryError", "OutOfMemoryError"}:
            return (line.strip() or str(error) or type(error).__name__)[:300]
        error = error.__cause__ or error.__context__
    return ""


def _finite(value: float | None) -> float | None:
    """The same number, or the largest float in place of infinity and NaN, which JSON does not have."""
    return value if value is None or math.isfinite(value) else sys.float_info.max


def printable(text: str) -> str:
    """Text for a terminal or a report: characters that are not printable become question marks."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def plain(value: Any) -> Any:
    """A value in the types of JSON; infinities, NaN and unknown objects become texts."""
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
