"""A trainer under test, as laws call it: what it gets and returns is checked, and its exceptions are known as its own.

An adapter's mistake ends a check with an `AdapterRaised`, an error in which no result was wrong. A batch or a case that
the trainer does not claim ends it with `NotRun`.
"""

import functools
import textwrap
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...adapter import OPTIONAL_METHODS, Case, HostBatch, StepResult, fixed_of, shapes
from ...core.check import AdapterRaised, NotRun, NotRunReason, Unclaimed

METHODS = {"start", "step", "evaluate", "params", *OPTIONAL_METHODS}
# The most frames of an exception that a report shows.
MOST_FRAMES = 4
# The most characters of an exception's text in a message.
MOST_TEXT = 500


class Guarded:
    """A trainer behind the adapter interface, whose calls are checked; other attributes are the trainer's own."""

    def __init__(self, trainer: Any, adapter: str) -> None:
        self.trainer, self.adapter = trainer, adapter
        self.case: Case | None = None
        self.n = 1

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.trainer, name)
        return functools.partial(self._call, name, value) if name in METHODS else value

    def _call(self, method: str, function: Any, *arguments: Any) -> Any:
        if method == "start":
            self._begin(*arguments)
        for batch in arguments[0] if method == "score" else arguments:
            if isinstance(batch, HostBatch):
                self._admit(method, batch)
        try:
            result = function(*arguments)
        except (Exception, SystemExit) as error:
            # Several processes (`process_group.Across`) raise results of the check; they have a status.
            if hasattr(error, "status"):
                raise
            raise raised(error, self.adapter, method, function) from error
        try:
            return self._checked(method, result)
        except ValueError as error:
            raise AdapterRaised(f"--adapter {self.adapter}: {method}() {error}", _defined(method, function)) from error

    def _begin(self, case: Case, _: object, n: int) -> None:
        for name, value in fixed_of(self.trainer).items():
            if getattr(case, name) != value:
                words = f"needs {name} = {getattr(case, name)}; the trainer's is fixed at {value}"
                raise NotRun(words, NotRunReason.NOT_APPLICABLE)
        self.case, self.n = case, n

    def _admit(self, method: str, batch: HostBatch) -> None:
        parts = self.n * (self.case.accumulate if self.case and method != "evaluate" else 1)
        whole = len(batch.weights) % parts == 0 and (batch.weights > 0).all()
        if not whole and "padding rows" not in self.trainer.capabilities:
            raise Unclaimed("padding rows")

    def _checked(self, method: str, result: Any) -> Any:
        """The result of a method; a ValueError says what it must be."""
        assert self.case is not None
        if method == "step":
            loss, rate = (
                (result.loss, result.learning_rate) if hasattr(result, "learning_rate") else _several(result, 2)
            )
            _leaf("loss", loss, ())
            _leaf("learning_rate", rate, ())
            return StepResult(loss, rate)
        if method == "evaluate":
            return _leaf("logits", result, (None, self.case.num_labels))
        if method in ("params", "gradients"):
            return _leaves(result, self.case)
        if method in ("moments", "replicas"):
            return [_leaves(leaves, self.case) for leaves in _several(result, 2 if method == "moments" else None)]
        if method == "score":
            missing = {"accuracy", "f1"} - set(_a(Mapping, result))
            if missing:
                raise ValueError(f"has no {', '.join(sorted(missing))}")
        elif method in ("program", "lowered"):
            _a(str, result)
        elif method == "epoch":
            return [_leaf(f"batch {number}", batch, (None,)) for number, batch in enumerate(_several(result, None))]
        return result


def raised(error: BaseException, adapter: str, method: str, function: Any) -> AdapterRaised:
    """An exception of an adapter's method, with the frames from that method on."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    # The adapter's own frames say more than those of the libraries that it calls.
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    shown = [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in own[-MOST_FRAMES:]]
    shown = shown or _defined(method, function)
    where = f" in {shown[-1]}" if shown else ""
    text = textwrap.shorten(str(error), MOST_TEXT)
    return AdapterRaised(f"--adapter {adapter}: {method}() raised {type(error).__name__}{where}: {text}", shown)


def _defined(method: str, function: Any) -> list[str]:
    """Where a method is defined, as a frame; empty for one that is not written in Python."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return [f"{method} ({code.co_filename}:{code.co_firstlineno})"] if code else []


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"returned a {type(value).__name__}, must be a {kind.__name__}")
    return value


def _several(values: Any, count: int | None) -> list[Any]:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ValueError(f"returned a {type(values).__name__}, must be a sequence")
    items = list(values)
    if count not in (None, len(items)):
        raise ValueError(f"returned {len(items)} values, must be {count}")
    return items


def _leaves(leaves: Any, case: Case) -> dict[str, Any]:
    """The leaves of one dict, with the names and shapes of the model's parameters."""
    wanted = shapes(case)
    for words, names in (("lacks", wanted.keys() - _a(Mapping, leaves)), ("has", leaves.keys() - wanted.keys())):
        if names:
            raise ValueError(
                f"{words} {', '.join(sorted(map(str, names))[:MOST_FRAMES])}; must have the leaves of start"
            )
    return {name: _leaf(name, leaf, wanted[name]) for name, leaf in leaves.items()}


def _leaf(name: str, leaf: Any, shape: tuple[int | None, ...]) -> Any:
    """An array of real numbers of this shape, in which None is any size; lists become arrays."""
    array = leaf if hasattr(getattr(leaf, "dtype", None), "kind") else np.asarray(leaf)
    got = tuple(array.shape)
    if len(got) != len(shape) or any(size not in (None, n) for n, size in zip(got, shape, strict=True)):
        wanted = str(shape).replace("None", "any") if shape else "that of a number, ()"
        raise ValueError(f"{name} has shape {got}, must be {wanted}")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise ValueError(f"{name} has dtype {array.dtype}, must be a real one")
    return array
