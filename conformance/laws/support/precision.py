"""A way to request a float32 product -> the name of its precision; a declaration -> the precisions it allows."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import lax

from . import operators
from .operators import Formula, Machine

Array = npt.NDArray[np.float32]
# At least so many bits of the significand in the product -> the precision's name. Several products of a lower format
# keep a number of bits between two formats: three of bfloat16 keep 16, three of TF32 keep 22.
NAMES = ((22, "float32"), (14, "bfloat16_3x"), (10, "tensorfloat32"), (0, "bfloat16"))
WIDEST = 23
TERMS = 768
# The precision of a float32 product if nothing is declared: float32 on CPUs, TF32 on some GPUs, bfloat16 on TPUs.
UNDECLARED = {"cpu": {"float32"}, "gpu": {"float32", "tensorfloat32"}}
EVERY = frozenset(name for _, name in NAMES)
DECLARED = {
    "highest": {"float32"},
    "float32": {"float32"},
    "high": {"tensorfloat32", "bfloat16_3x"},
    "tensorfloat32": {"tensorfloat32", "bfloat16_3x"},
    "bfloat16_3x": {"tensorfloat32", "bfloat16_3x"},
    "default": {"tensorfloat32", "bfloat16"},
    "fastest": {"tensorfloat32", "bfloat16"},
    "bfloat16": {"tensorfloat32", "bfloat16"},
}


def declared() -> str | None:
    """The value of `jax_default_matmul_precision`, in lower case, or None."""
    value = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return None if value is None else str(value).lower()


def accepted(declared: str | None, platform: str, has_less: bool) -> set[str]:
    """The precisions that a declaration allows; `has_less` tells whether the hardware has less than float32."""
    if declared is None:
        return set(UNDECLARED.get(platform, EVERY))
    names = set(DECLARED.get(declared, EVERY))
    return names if has_less else names | {"float32"}


def _forms(*operands: Any, precision: Any) -> tuple[Any, ...]:
    pairs = zip(operands[::2], operands[1::2], ((1, 0), (1, 1), (0, 0)), strict=True)
    return tuple(operators.dot(a, b, over, precision) for a, b, over in pairs)


# A linear layer's products without a precision argument, as in BERT, so that the context or the default decides; with
# the highest; with the lowest that the hardware has.
in_force = functools.partial(_forms, precision=None)
highest = functools.partial(_forms, precision=lax.Precision.HIGHEST)
fastest = functools.partial(_forms, precision=lax.Precision.DEFAULT)


def named(machine: Machine, formula: Formula, rows: int = 128) -> str:
    """The lowest precision among the forms of a linear layer's product, with that many rows.

    One operand has 1 + 2^-j in column j, the other ones and zeros, so that nothing is added up: the result is the first
    operand, rounded. The left operand is measured first, then the right one.
    """
    least = WIDEST
    steps = (1 + 0.5 ** np.arange(1, WIDEST + 1)).astype(np.float32)
    eye = np.eye(TERMS, WIDEST, dtype=np.float32)
    ones = np.ones((rows, TERMS), np.float32)
    for a, b in ((ones * np.resize(steps, TERMS), eye), (ones, eye * steps)):
        for out in machine.first(formula, *forms_of(a, b)):
            kept = (np.asarray(out) == steps).all(axis=0)
            least = min(least, WIDEST if kept.all() else int(kept.argmin()))
    return next(name for bits, name in NAMES if least >= bits)


def forms_of(a: Array, b: Array) -> tuple[Array, ...]:
    """The operands of a @ b, as x W, dy W^T and x^T dy take them."""
    return a, b, a, np.ascontiguousarray(b.T), np.ascontiguousarray(a.T), b
