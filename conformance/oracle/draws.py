"""Seed of a law -> values drawn by Hypothesis: ids, lengths, labels, weights, permutations.

Shapes are never drawn: each costs a compilation, a new value only milliseconds. `cases.py` has the few shapes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from ..adapter import Case, HostBatch, TrainerUnderTest, fixed_of
from ..core.check import Check, NotRun, NotRunReason
from .cases import B, L, main_case, start_params
from .tape import Params

Rng = np.random.Generator
Shapes = Mapping[str, Sequence[tuple[int, ...]]]
EXAMPLES = {"quick": 3, "standard": 8, "full": 30}
# The content of padding: an id outside every table.
GARBAGE = 99_999
# Seeds of dropout are below this: they have more than 32 bits, so that a generator that drops the high word is seen.
MOST = 2**40


def for_all(check: Check, body: Callable[..., None], /, **values: st.SearchStrategy[object]) -> None:
    """Call `body` with drawn values, as often as the level says; an exception ends the check.

    Example::

        for_all(check, lambda ids: check.equal("ids", table[ids], want[ids]), ids=integers(0, 9))
    """
    # No shrinking: with fixed shapes a smaller example is no easier to read, and the seed reproduces the failing one.
    options = settings(
        max_examples=EXAMPLES[check.level], deadline=None, database=None, phases=(Phase.explicit, Phase.generate),
        report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    test = options(given(**values)(lambda **drawn: body(**drawn)))
    try:
        seed(check.law.stream ^ check.seed)(test)()
    except Flaky as error:
        # Hypothesis reran the failing values, and the rerun passed. A bad machine does that, so it counts as a failure.
        for failure in getattr(error, "exceptions", ()):
            # Hypothesis wraps a failure that is not an Exception, such as that of pytest-timeout.
            first = failure if failure.args else failure.__cause__ or failure
            first.add_note("The same values passed when rerun: the failure is not reproducible.")
            raise first from None
        raise


def for_shapes(check: Check, shapes: Shapes, body: Callable[..., None], *, most: int = 2**18) -> None:
    """Call `body(g, shape=...)` for each shape of this level and of those below.

    A shape with more than `most` elements is called only once, because so many elements are a sample by themselves.
    """
    for shape in (shape for level, more in shapes.items() if check.at(level) for shape in more):
        each = functools.partial(body, shape=shape)
        if math.prod(shape) > most:
            each(np.random.default_rng((check.law.stream, check.seed, *shape)))
        else:
            for_all(check, each, g=generators())


def generators() -> st.SearchStrategy[Rng]:
    """NumPy generators with drawn seeds, which draw arrays at once; Hypothesis would draw them element by element."""
    # The seed is drawn bit by bit: for an integer, Hypothesis may use a constant of a loaded local module, and the
    # command that reproduces a failure loads fewer modules.
    bits = st.lists(st.booleans(), min_size=32, max_size=32)
    return bits.map(lambda drawn: np.random.default_rng(sum(bit << place for place, bit in enumerate(drawn))))


def permutations(n: int) -> st.SearchStrategy[npt.NDArray[np.int64]]:
    """Permutations of 0 .. n - 1."""
    return generators().map(lambda g: g.permutation(n))


def batch_of(
    case: Case, rng: Rng, *, rows: int = B, real: int | None = None, longest: int = L, columns: int = L
) -> HostBatch:
    """A batch of examples of unequal length, with unequal weights if `case.weighted`; ids in padding are invalid.

    The first `real` rows have a weight above 0; by default, and without `case.padding_rows`, all rows do. An example
    has at most `longest` tokens, and the batch has max(columns, longest) columns.
    """
    count = rows if real is None or not case.padding_rows else real
    lengths = rng.integers(3, longest + 1, rows)
    columns = max(columns, longest)
    mask = (np.arange(columns) < lengths[:, None]).astype(np.int32)
    labels = rng.normal(2, 1, rows) if case.regression else rng.integers(0, case.num_labels, rows)
    weights = rng.choice(np.array([0.25, 0.5, 1.0, 2.0], np.float32), rows)
    if not case.weighted:
        weights[:] = 1
    weights[count:] = 0
    ids = rng.integers(0, case.vocab_size, (rows, columns))
    types = rng.integers(0, case.type_vocab_size, (rows, columns))
    return HostBatch(
        input_ids=np.where(mask, ids, GARBAGE).astype(np.int32),
        token_type_ids=np.where(mask, types, -GARBAGE).astype(np.int32),
        attention_mask=mask,
        labels=labels.astype(np.float32 if case.regression else np.int32),
        weights=weights,
        # Distinct ids from the whole range of uint32, since an id is an address, not an index.
        example_ids=(rng.permutation(rows) * 0x1000193 + rng.integers(0, 2**32)).astype(np.uint32),
    )


def seeded_case(subject: TrainerUnderTest, rng: Rng, *, small: bool = False, **changes: Any) -> Case:
    """The trainer's case with a drawn seed and `changes`; a `NotRun` if the trainer cannot make one of the changes."""
    fixed = fixed_of(subject)
    for name, value in changes.items():
        if name in fixed and fixed[name] != value:
            words = f"needs {name} = {value}; the trainer's is fixed at {fixed[name]}"
            raise NotRun(words, NotRunReason.NOT_APPLICABLE)
    case = main_case(subject.capabilities, seed=int(rng.integers(MOST)), small=small, fixed=fixed)
    return dataclasses.replace(case, **changes)


def possible(subject: TrainerUnderTest, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The `changes` of a case without those of fields that the trainer fixes: for laws that vary several fields."""
    return {name: value for name, value in changes.items() if name not in fixed_of(subject)}


def divides(subject: TrainerUnderTest, parts: int) -> bool:
    """Whether a trainer can divide a batch of B rows into equal parts: any, if it claims `padding rows`."""
    return "padding rows" in subject.capabilities or B % parts == 0


def draw_case(subject: TrainerUnderTest, rng: Rng, **changes: Any) -> tuple[Case, Params, HostBatch]:
    """A case with a drawn seed and `changes`, start parameters, and a ragged batch."""
    case = seeded_case(subject, rng, **changes)
    return case, start_params(case, rng), batch_of(case, rng, real=int(rng.integers(9, B)))


def rows_of(batch: HostBatch, index: npt.NDArray[np.integer]) -> HostBatch:
    """The rows `index` of a batch, in that order."""
    return HostBatch(*(leaf[index] for leaf in batch))


def with_weights(batch: HostBatch, weights: npt.NDArray[np.floating]) -> HostBatch:
    """The same examples with other weights."""
    return batch._replace(weights=weights.astype(np.float32))


def devices(batch: HostBatch, n: int) -> npt.NDArray[np.integer]:
    """[B]; the device of each row, if consecutive blocks of rows are sharded over n devices."""
    return np.arange(len(batch.weights)) // -(-len(batch.weights) // n)
