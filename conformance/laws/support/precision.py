"""A way to ask for a float32 product -> the name of the precision it is computed in, and what a declaration allows."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import lax

from . import operators
from .operators import Formula, Machine

Array = npt.NDArray[np.float32]
# Bits of the significand that reach the product -> the precision's name. What lies between two formats is made of
# several products of the lower one: three of bfloat16 keep 16 bits, three of TF32 keep 22.
NAMES = ((22, "float32"), (14, "bfloat16_3x"), (10, "tensorfloat32"), (0, "bfloat16"))
WIDEST = 23
TERMS = 768
# What stands for a float32 product where nothing is declared: exact on CPUs, TF32 on some GPUs, bfloat16 on TPUs.
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
    """What `jax_default_matmul_precision` says."""
    value = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return None if value is None else str(value).lower()


def reduced(name: str) -> bool:
    """Whether a precision is less than float32."""
    return name != "float32"


def accepted(asked: str | None, platform: str, has_less: bool) -> set[str]:
    """The precisions that a declaration allows; float32 for a lower one only where the hardware has nothing less."""
    if asked is None:
        return set(UNDECLARED.get(platform, EVERY))
    names = set(DECLARED.get(asked, EVERY))
    return names if has_less else names | {"float32"}


def in_force(*operands: Any) -> tuple[Any, ...]:
    """Products as BERT asks for them: by nothing, or by the context they are traced in."""
    return _forms(operands, None)


def highest(*operands: Any) -> tuple[Any, ...]:
    """By the argument `Precision.HIGHEST`."""
    return _forms(operands, lax.Precision.HIGHEST)


def fastest(*operands: Any) -> tuple[Any, ...]:
    """By the argument `Precision.DEFAULT`, the least that the hardware has."""
    return _forms(operands, lax.Precision.DEFAULT)


def named(machine: Machine, formula: Formula, rows: int = 128) -> str:
    """The precision of the least exact form of a linear layer's product, with that many rows.

    Operands are 1 + 2^-j in column j, times ones and zeros, so that nothing is added up: what comes out is what was
    left of the operand, the left one first and then the right one.
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
    """The operands of a @ b as x W, dy W^T and x^T dy want them."""
    return a, b, a, np.ascontiguousarray(b.T), np.ascontiguousarray(a.T), b


def _forms(operands: tuple[Any, ...], precision: Any) -> tuple[Any, ...]:
    overs = ((1, 0), (1, 1), (0, 0))
    pairs = zip(operands[::2], operands[1::2], overs, strict=True)
    return tuple(operators.dot(a, b, over, precision) for a, b, over in pairs)
