"""A law's seed -> values drawn by Hypothesis: ids, lengths, labels, weights, permutations.

Never shapes: each shape costs a compilation (`cases.py` has the few there are), and a new value costs milliseconds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .check import Check

EXAMPLES = {"quick": 3, "standard": 8, "full": 30}
# Shapes are fixed, so a smaller example is no easier to read, and the seed repeats the one that failed.
PHASES = (Phase.explicit, Phase.generate)


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
    seed(zlib.crc32(check.law.id.encode()) ^ check.seed)(test)()


def generators() -> st.SearchStrategy[np.random.Generator]:
    """NumPy generators of drawn seeds: for arrays, which Hypothesis would draw element by element."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


def permutations(n: int) -> st.SearchStrategy[npt.NDArray[np.int64]]:
    """Orders of n things."""
    return st.permutations(range(n)).map(np.array)
