"""A cause or a next step, and the run -> the text without what this run contradicts."""

import re
from collections.abc import Collection

from ..core.law import laws
from .outcome import BROKEN, Outcome

# What only accelerators have: their variables, libraries and drivers.
ACCELERATORS = re.compile(r"NCCL|RCCL|HSA_|ROCR_|HIP_|xla_gpu|[Dd]river|IOMMU|P2P|peer access|board")
ON_CPU = "The code that XLA runs on this machine's CPU is wrong, or its memory is; no accelerator takes part."
REPRODUCE = "Run the command of the failure (`reproduce`), and compare the numbers in its message."


def sentences(text: str) -> list[str]:
    """The sentences and clauses of a text, which end in a full stop or a semicolon."""
    return re.split(r"(?<=[.;])\s+", text)


def _joined(parts: list[str], otherwise: str) -> str:
    text = " ".join(parts)
    return f"{text[0].upper()}{text[1:].removesuffix(';').removesuffix('.')}." if text else otherwise


def without_accelerators(text: str, outcome: Outcome, otherwise: str = ON_CPU) -> str:
    """The text; without the sentences about accelerators if the devices of the run are those of a CPU."""
    if not outcome.on_cpu or not ACCELERATORS.search(text):
        return text
    return _joined([part for part in sentences(text) if not ACCELERATORS.search(part)], otherwise)


def next_step_of(text: str, subject: str | None, outcome: Outcome) -> str:
    """The next step, without the sentences about checks that did not fail here: they would show nothing."""
    text = without_accelerators(text, outcome, REPRODUCE)
    return without_idle(
        text, {record.law for record in outcome.of_status(*BROKEN) if record.subject in (None, subject)}
    )


def without_idle(text: str, broken: Collection[str]) -> str:
    """A text, without the sentences about laws that are not `broken`: blocked, not claimed, or passed."""
    idle = [law for law in laws() if law in text and law not in broken]
    if not idle:
        return text
    # The longest id that a place has counts: one id may begin with another.
    names = re.compile("|".join(re.escape(law) for law in sorted(laws(), key=len, reverse=True)))
    return _joined([part for part in sentences(text) if not set(names.findall(part)) & set(idle)], REPRODUCE)
