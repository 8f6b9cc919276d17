"""A test -> the law that pytest collects: its id, what it needs, and how often it runs.

`@law(id)` marks a test. The test takes pytest's fixtures by name, and also `machine`, one `Machine` for all its runs,
and `n`, the number of devices that the trainer under test can use: all, or one if it does not claim `devices`; without
`padding rows`, a number that divides B. With `draws` it runs for each drawn `rng`, with `shapes` also for each
`shape`::

    @law("operators.softmax", shapes={"quick": ((5, 1), (64, 33)), "full": ((12_288, 512),)})
    def test_softmax(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int]) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from ...adapter import Case, HostBatch, TrainerUnderTest
from ...core.check import Check
from ...oracle.draws import Shapes, divides, for_all, for_shapes, generators
from ...oracle.tape import Params
from .explaining import recorded
from .operators import Machine

Test = Callable[..., None]


def law(
    name: str, *, draws: bool = False, shapes: Shapes | None = None, most: int = 2**18, devices: int = 0,
    claims: Sequence[str] = (),
) -> Callable[[Test], Test]:  # fmt: skip
    """Make a test the law with the id `name`.

    With `draws`, `oracle.draws.for_all` runs the test; with `shapes` (and `most`), `for_shapes` does. The law is NOT
    RUN on fewer than `devices` devices (two if `claims` has `devices`), or if the trainer lacks one of `claims`.
    """

    def decorate(test: Test) -> Test:
        taken = inspect.signature(test).parameters
        own = {"machine", "n"} | ({"rng", "shape"} if draws or shapes else set())
        fixtures = {key: parameter for key, parameter in taken.items() if key not in own}
        if devices or "devices" in claims or {"machine", "n"} & taken.keys():
            fixtures.setdefault("devices", inspect.Parameter("devices", inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(test)
        def run(*, check: Check, **values: Any) -> None:
            here = values["devices"] if "devices" in taken else values.pop("devices", ())
            _need(check, here, devices)
            for capability in claims:
                check.need_capability(capability, values["subject"].capabilities)
                if capability == "devices":
                    _need(check, here, 2)
            if "machine" in taken:
                values["machine"] = Machine(check, here)
            if "n" in taken:
                count = len(here) if "devices" in values["subject"].capabilities else 1
                values["n"] = next(n for n in range(count, 0, -1) if divides(values["subject"], n))
            with recorded(check, values) as arguments:
                once = functools.partial(test, check=check, **arguments)
                if shapes:
                    for_shapes(check, shapes, lambda g, shape: once(rng=g, shape=shape), most=most)
                elif draws:
                    for_all(check, once, rng=generators())
                else:
                    once()

        run.__signature__ = inspect.Signature(list(fixtures.values()))  # type: ignore[attr-defined]
        return pytest.mark.law(name)(run)

    return decorate


def _need(check: Check, devices: Sequence[Any], least: int) -> None:
    check.need(len(devices) >= least, f"needs {least} devices, found {len(devices)}")


def at_level(check: Check, by_level: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The values of the check's level and of those below, in the table's order."""
    return [value for level, values in by_level.items() if check.at(level) for value in values]


def losses_of(trainer: TrainerUnderTest, case: Case, params: Params, batches: list[HostBatch], n: int) -> list[float]:
    """The losses of a new run on n devices, one update for each batch."""
    trainer.start(case, params, n)
    return [trainer.step(batch).loss for batch in batches]
