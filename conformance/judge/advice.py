"""A failed check -> its likely cause and the next step."""

from ..core.law import laws
from ..core.result import Result


def advice(record: Result) -> tuple[str, str]:
    """Likely cause and next step: the law's own, unless an exception ended the check."""
    law = laws()[record.law]
    if record.status != "error":
        return law.cause, law.next_step
    source = "The check" if record.subject is None else "The trainer, its adapter or the check"
    return (
        f"{source} raised an exception.",
        "Read the message; run the check under pytest (`--sftref-only` with its id) for the traceback.",
    )
