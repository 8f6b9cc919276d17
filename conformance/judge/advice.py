"""A check that did not do what its law demands -> what is likely wrong and what to do."""

from __future__ import annotations

from ..core.law import laws
from ..core.result import Result


def advice(record: Result) -> tuple[str, str]:
    """Likely cause and next step: the law's own, unless something raised before the law could be judged."""
    law = laws()[record.law]
    if record.status != "error":
        return law.cause, law.next_step
    who = "The check" if record.subject is None else "The trainer, its adapter or the check"
    return (
        f"{who} raised an exception and gave no result.",
        "Read the message; the same check under pytest (`--sftref-only` with its id) shows the whole traceback.",
    )
