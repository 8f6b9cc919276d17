"""Body of a law -> the law that pytest collects: when it runs, and how often.

`@each_draw` runs a body for each drawn generator, `@each_shape(SHAPES)` does so for each shape. The body takes pytest's
fixtures by name, and also `rng` (drawn), `shape`, and `machine`, which is one `Machine` for all runs of the body::

    @pytest.mark.law("operators.softmax")
    @each_shape({"quick": ((5, 1), (64, 33)), "full": ((12_288, 512),)})
    def test_softmax(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int]) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...core.check import Check
from ...oracle.draws import for_all, for_shapes, generators
from .operators import Machine

Law = Callable[..., None]
Shapes = Mapping[str, Sequence[tuple[int, ...]]]


def each_draw(body: Law) -> Law:
    """Run a law's body once for each drawn `rng`; `oracle.draws.EXAMPLES` says how many a level has."""
    return _repeated(body, lambda check, run: for_all(check, run, rng=generators()))


def each_shape(shapes: Shapes, *, most: int = 2**18) -> Callable[[Law], Law]:
    """Run a law's body as `each_draw` does, on each `shape`; see `oracle.draws.for_shapes`."""

    def repeat(check: Check, run: Law) -> None:
        for_shapes(check, shapes, lambda g, shape: run(rng=g, shape=shape), most=most)

    return lambda body: _repeated(body, repeat)


def _repeated(body: Law, repeat: Callable[[Check, Law], None]) -> Law:
    taken = inspect.signature(body).parameters
    fixtures = [one for name, one in taken.items() if name not in ("rng", "shape", "machine")]
    if "machine" in taken:
        fixtures.append(inspect.Parameter("devices", inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(body)
    def law(*, check: Check, **values: Any) -> None:
        if "machine" in taken:
            values["machine"] = Machine(check, values.pop("devices"))
        repeat(check, functools.partial(body, check=check, **values))

    law.__signature__ = inspect.Signature(fixtures)  # type: ignore[attr-defined]
    return law


def need_devices(check: Check, devices: Sequence[Any], least: int = 2) -> None:
    """Leave the check as NOT RUN unless there are `least` devices.

    Raises:
        NotRun: there are fewer.
    """
    check.need(len(devices) >= least, f"needs {least} devices, found {len(devices)}")


def at_level(check: Check, by_level: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The values of the check's level and of those below, in the table's order."""
    return [value for level, values in by_level.items() if check.at(level) for value in values]
