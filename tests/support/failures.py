"""Failed checks, and the diagnosis of a run that has only these."""

import dataclasses

from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.judge.diagnosis import diagnose
from sftref.conformance.judge.outcome import Outcome


def failure(law: str, place: str, *words: str, by: tuple[list[str], ...] = (), message: str = "off") -> Result:
    """A failed check, whose run parts from the oracle's at a place."""
    facts = {"by": list(by), "nearest": [], "what": "gradient of update 0", "before": 500.0, "after": 9.0, "left": "",
             "tried": 90, "measured": list(words), "place": place}  # fmt: skip
    record = Result.ended(laws()[law], "mesh", "fail", message, 1.0)
    return dataclasses.replace(record, facts={"explained": facts} if place else {})


def diagnosis_of(*records: Result) -> dict[str, object]:
    outcome = Outcome(
        settings=Settings(), expected=[one.id for one in records], records={one.id: one for one in records}
    )
    found = diagnose(outcome)
    assert found is not None
    return found
