"""Wrong derivative rules of JAX primitives: values are right, and their gradients are not."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as core
from jax.interpreters import ad

from .seeding import SeededFaults

FAULTS = SeededFaults()
seed, seeded_ids = FAULTS.seed, FAULTS.seeded_ids


def _slope(fault: str, primitive: Any, wrong: Callable[..., Any]) -> None:
    """Add a primitive whose tangent is `wrong(right tangent, *operands)`."""

    def seed() -> Iterator[None]:
        right = ad.primitive_jvps[primitive]

        def rule(primals: Any, tangents: Any, **parameters: Any) -> Any:
            out, tangent = right(primals, tangents, **parameters)
            return out, wrong(tangent, *primals)

        ad.primitive_jvps[primitive] = rule
        try:
            yield
        finally:
            ad.primitive_jvps[primitive] = right

    FAULTS.context(fault)(seed)


_slope("slope-of-exp", core.exp_p, lambda tangent, x: tangent * np.float32(1.01))
_slope("slope-of-a-product", core.dot_general_p, lambda tangent, a, b: tangent * np.float32(1.01))
_slope("slope-of-rsqrt", core.rsqrt_p, lambda tangent, x: tangent * np.float32(1.01))
_slope("slope-of-erf-far-out", core.erfc_p, lambda tangent, x: jnp.where(jnp.abs(x) > 1, 0, tangent))
