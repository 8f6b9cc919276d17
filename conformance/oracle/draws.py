"""A law's seed -> values drawn by Hypothesis: ids, lengths, labels, weights, permutations.

Never shapes: each shape costs a compilation (`cases.py` has the few there are), and a new value costs milliseconds.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from ..adapter import Case, HostBatch
from ..core.check import Check
from .cases import B, L

EXAMPLES = {"quick": 3, "standard": 8, "full": 30}
# Shapes are fixed, so a smaller example is no easier to read, and the seed repeats the one that failed.
PHASES = (Phase.explicit, Phase.generate)
# What stands in padding: an id of no table.
GARBAGE = 99_999


def for_all(check: Check, holds: Callable[..., None], /, **values: st.SearchStrategy[object]) -> None:
    """Call `holds` with drawn values, as often as the level says; what it raises ends the check.

    Example::

        for_all(check, lambda ids: check.equal("ids", table[ids], want[ids]), ids=integers(0, 9))
    """
    test = given(**values)(lambda **drawn: holds(**drawn))
    test = settings(
        max_examples=EXAMPLES[check.level],
        deadline=None,
        database=None,
        phases=PHASES,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )(test)
    try:
        seed(zlib.crc32(check.law.id.encode()) ^ check.seed)(test)()
    except Flaky as error:
        # Hypothesis asks again what failed. What then holds has failed all the same: that is what a bad machine does.
        for found in getattr(error, "exceptions", ()):
            # Hypothesis wraps what is no Exception, such as the end that pytest-timeout puts to a check.
            first = found if found.args else found.__cause__ or found
            first.add_note("Asked again with the same values it did not fail: not every run gives this.")
            raise first from None
        raise


def for_shapes(
    check: Check, shapes: Mapping[str, Sequence[tuple[int, ...]]], holds: Callable[..., None], *, most: int = 2**18
) -> None:
    """Call `holds(g, shape=...)` for each shape of this level and those below; once above `most` elements.

    The product of a shape's sizes counts: so many elements are a sample of their own, and take their time.
    """
    for shape in (shape for level, several in shapes.items() if check.at(level) for shape in several):
        each = functools.partial(holds, shape=shape)
        if math.prod(shape) > most:
            each(np.random.default_rng((zlib.crc32(check.law.id.encode()), check.seed, *shape)))
        else:
            for_all(check, each, g=generators())


def generators() -> st.SearchStrategy[np.random.Generator]:
    """NumPy generators of drawn seeds: for arrays, which Hypothesis would draw element by element."""
    # Bit by bit: Hypothesis draws an integer now and then from those written in whatever local modules are loaded, and
    # the command that repeats a failure loads fewer of them.
    bits = st.lists(st.booleans(), min_size=32, max_size=32)
    return bits.map(lambda drawn: np.random.default_rng(sum(bit << place for place, bit in enumerate(drawn))))


def permutations(n: int) -> st.SearchStrategy[npt.NDArray[np.int64]]:
    """Orders of n things."""
    return generators().map(lambda g: g.permutation(n))


def batch_of(
    case: Case, rng: np.random.Generator, *, rows: int = B, real: int | None = None, longest: int = L
) -> HostBatch:
    """Ragged examples, of unequal weights if the case says so; padding, rows of weight 0 too, holds garbage.

    Args:
        case: says which ids and labels there are.
        rng: of all values.
        rows: B.
        real: how many rows count; default all.
        longest: the most tokens of an example; where that is more than L, so are the columns.
    """
    count = rows if real is None else real
    lengths = rng.integers(3, longest + 1, rows)
    columns = max(L, longest)
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
        # Distinct, and from the whole range: an id is an address, not an index.
        example_ids=(rng.permutation(rows) * 0x1000193 + rng.integers(0, 2**32)).astype(np.uint32),
    )


def rows_of(batch: HostBatch, index: npt.NDArray[np.integer]) -> HostBatch:
    """The rows `index` of a batch, in that order."""
    return HostBatch(*(leaf[index] for leaf in batch))


def with_weights(batch: HostBatch, weights: npt.NDArray[np.floating]) -> HostBatch:
    """The same examples, counted otherwise."""
    return batch._replace(weights=weights.astype(np.float32))
