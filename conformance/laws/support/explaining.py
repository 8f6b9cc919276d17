"""A trainer's calls in a law -> if the law fails, which variants of the oracle explain the results, as facts."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

from ...adapter import Case, HostBatch
from ...core.check import AdapterRaised, Check, NotRun
from ...core.facts import Explained
from ...oracle.variants.located import pairs, whole
from ...oracle.variants.replay import Call, Log
from ...oracle.variants.search import DEEPEST, Several, explain, wrong
from ...oracle.variants.table import PHASES
from .examine.confirming import as_earlier, confirmed
from .examine.experiments import examined, observed
from .examine.made import Until, attempted, copied, copied_batch, restarts

# Seconds of this thread after a failure; and the most runs of a law that are kept for it.
SECONDS = 12.0
# The share of a check's deadline after which no further run is made.
SHARE = 0.7
MOST_RUNS = 32
# The most explanations of the same numbers that are named.
MOST_NAMED = 3
KEPT = ("step", "params", "gradients", "moments", "evaluate", "save", "restore")
# Variants that explained earlier failures in this process: they are tried first.
known: list[Several] = []
recorders: list["Recorder"] = []
# The cases that each trainer ran, the last ones of them.
cases: list[tuple[Any, Case]] = []
MOST_CASES = 64
# Trainers for which a search found nothing, once for each: later searches are short, and after ENOUGH of them no
# further runs are made.
ENOUGH = 2
unexplained: list[Any] = []


class Recorder:
    """A trainer that keeps copies of what it gets and returns; all else is the trainer's own."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.logs = trainer, list[Log]()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.trainer, name)
        if name == "start":
            return functools.partial(self._start, value)
        return functools.partial(self._call, name, value) if name in KEPT else value

    def _start(self, right: Any, case: Any, params: Any, n: int) -> None:
        calls = self.logs[-1].calls if self.logs else []
        if any(call.method == "save" for call in calls) and not any(call.method == "restore" for call in calls):
            calls.append(Call("start", None, copied(params)))
        else:
            self.logs = [*self.logs, Log(case, copied(params), n)][-MOST_RUNS:]
        if not any(trainer is self.trainer and one == case for trainer, one in cases):
            cases.append((self.trainer, case))
            del cases[:-MOST_CASES]
        right(case, params, n)

    def _call(self, method: str, right: Any, *arguments: Any) -> Any:
        # Copied before the call: a trainer may write into its batch.
        batches = [copied_batch(one) for one in arguments if isinstance(one, HostBatch)]
        result = right(*arguments)
        try:
            kept = copied(result)
        except (AttributeError, TypeError, ValueError):
            self.logs = []  # not what the interface says: the law or its guard reports that
        if self.logs:
            self.logs[-1].calls.append(Call(method, batches[0] if batches else None, kept))
        return result


@contextlib.contextmanager
def recorded(check: Check, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The law's arguments, with the trainer under test recorded; explains its results if the law fails."""
    if not check.narrows or check.law.rung not in (4, 6, 7, 8) or "subject" not in values:
        yield values
        return
    recorders.append(Recorder(values["subject"]))
    try:
        yield {**values, "subject": recorders[-1]}
    except AssertionError:
        note(check)
        raise
    finally:
        recorders.pop()


def note(check: Check) -> None:
    """After a comparison failed: note in the facts what explains the trainer's results, once for each check."""
    if "explained" in check.facts or not recorders or not check.narrows:
        return
    # Whatever goes wrong here, the failure of the law is what the user must see.
    try:
        explained = explained_by(recorders[-1], check.law.deadline)
    except (Exception, NotRun) as error:
        check.facts["diagnosis_ended"] = f"{type(error).__name__}: {error}"
    else:
        if explained is not None:
            check.facts["explained"] = explained


def _apart(found: tuple[Several, ...]) -> tuple[Several, ...]:
    """These explanations, one of those that differ only in how rows are dealt to micro-batches: all say the same."""
    kinds = {tuple((one.entry, one.value, one.scope in PHASES and one.scope) for one in several): several
             for several in reversed(found)}  # fmt: skip
    return tuple(several for several in found if several in kinds.values())


def explained_by(recorder: Recorder, deadline: float = math.inf) -> Explained | None:
    """What explains the last wrong run of a trainer, or where it is; None if no run is wrong by its numbers.

    `deadline` is the check's, in seconds.
    """
    trainer, log, until = recorder.trainer, wrong(recorder.logs), Until.after(3 * SECONDS, SHARE * deadline)
    if log is None:
        return None
    # What is wrong without the restart too has nothing to do with it.
    if restarts(log) and (plain := attempted(trainer, log)) is not None and whole(pairs(plain)) > 1:
        log = plain
    run = log
    with contextlib.suppress(NotRun, AdapterRaised):
        # More results of the same run leave fewer causes.
        run = observed(trainer, log) or log
    before = sum(one is trainer for one in unexplained)
    explanation = explain([log, run], SECONDS, known, 1 if before else DEEPEST)
    if explanation is None:
        return None
    rate = explanation.before.what.startswith("learning rate")
    found = confirmed(trainer, explanation.log, explanation.found, until, rate)
    explanation = dataclasses.replace(explanation, found=_apart(found))
    place = as_earlier([case for one, case in cases if one is trainer], explanation.log)
    # Two failures are enough to place a fault; more of them take as long again.
    if place is None and not explanation.found and before < ENOUGH:
        with contextlib.suppress(NotRun, AdapterRaised):
            place = examined(trainer, log, run, until)
    # Constants of an earlier run are named before variants that give the same numbers.
    same = [f"with the same numbers: {' '.join(one.cause for one in several)}" for several in explanation.found[:1]]
    if not explanation.found:
        unexplained.append(trainer)
    known.extend(several for several in explanation.found if several not in known)
    return Explained(
        by=[] if place else [[one.id for one in several] for several in explanation.found[:MOST_NAMED]],
        nearest=[one.id for one in explanation.nearest],
        what=explanation.before.what,
        before=explanation.before.margin,
        after=explanation.after.margin,
        left=explanation.after.what,
        tried=explanation.tried,
        measured=[*explanation.measured, *(place.words if place else ()), *(same if place else ())],
        place=place.place if place else "",
    )
