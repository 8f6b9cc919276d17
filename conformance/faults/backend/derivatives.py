"""Wrong derivative rules of primitives: what is computed is right, and its gradient is not."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as core
from jax.interpreters import ad

from .seeding import SeededFaults

FAULTS = SeededFaults()
seed, seeded_ids = FAULTS.seed, FAULTS.seeded_ids


@contextlib.contextmanager
def _rule(table: Any, primitive: Any, wrong: Callable[..., Any]) -> Iterator[None]:
    """A derivative rule replaced: `wrong` gets the right rule and its arguments."""
    right = table[primitive]
    table[primitive] = functools.partial(wrong, right)
    try:
        yield
    finally:
        table[primitive] = right


def _slope(fault: str, primitive: Any, wrong: Callable[..., Any]) -> None:
    """A primitive whose derivative is `wrong` of the right tangent and the argument."""

    def rule(right: Any, primals: Any, tangents: Any, **how: Any) -> Any:
        out, tangent = right(primals, tangents, **how)
        return out, wrong(tangent, *primals)

    FAULTS[fault] = lambda: _rule(ad.primitive_jvps, primitive, rule)


_slope("slope-of-exp", core.exp_p, lambda tangent, x: tangent * np.float32(1.01))
_slope("slope-of-a-product", core.dot_general_p, lambda tangent, a, b: tangent * np.float32(1.01))
_slope("slope-of-rsqrt", core.rsqrt_p, lambda tangent, x: tangent * np.float32(1.01))
_slope("slope-of-erf-far-out", core.erfc_p, lambda tangent, x: jnp.where(jnp.abs(x) > 1, 0, tangent))
