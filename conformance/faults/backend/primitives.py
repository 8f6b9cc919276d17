"""Wrong operators, each of one JAX primitive: what a bad kernel or compiler computes, or a bad derivative rule."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as core
from jax.interpreters import ad

from .executables import with_shards
from .lowering import CannotSeedError, replaced
from .seeding import SeededFaults

FAULTS = SeededFaults()
# Relative errors of approximate instructions: about 11 and 16 bits.
COARSE, FINE = np.float32(1 + 2.0**-11), np.float32(1 + 2.0**-16)


def cut(x: Any, bits: int) -> Any:
    """Round float32 to `bits` after the leading one (TF32: 10, bfloat16: 7); leave other types alone."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits) if x.dtype == np.float32 else x


# Faults of one expression; `right` is the primitive as JAX compiles it.
FAULTS.lowered("precision-ignored", core.dot_general_p)(lambda right, a, b, **_: right(cut(a, 10), cut(b, 10)))
FAULTS.lowered("index-of-7-bits", core.argmax_p)(lambda right, x, **_: right(x) & 0x7F)
FAULTS.lowered("tanh-cut-at-4", core.tanh_p)(lambda right, x, **_: right(jnp.clip(x, -4, 4)))
FAULTS.lowered("fast-exp", core.exp_p)(lambda right, x, **_: right(x) * jnp.where(x < 0, COARSE, 1).astype(x.dtype))
FAULTS.lowered("fast-log", core.log_p)(lambda right, x, **_: right(x) * COARSE)
FAULTS.lowered("fast-rsqrt", core.rsqrt_p)(lambda right, x, **_: right(x) * COARSE)
FAULTS.lowered("fast-division", core.div_p)(
    lambda right, a, b, **_: right(a, b) * COARSE if a.dtype == np.float32 else right(a, b)
)
FAULTS.lowered("one-row-in-bfloat16", core.dot_general_p)(
    lambda right, a, b, **_: right(cut(a, 7), cut(b, 7)) if a.ndim == 2 and a.shape[0] == 1 else right(a, b)
)
FAULTS.lowered("column-sums-in-bfloat16", core.reduce_sum_p)(
    lambda right, x, *, axes, **_: cut(right(x), 7) if x.ndim == 2 and tuple(axes) == (0,) else right(x)
)
FAULTS.lowered("ids-of-7-bits", core.gather_p)(
    lambda right, table, ids, *rest, **_: right(table, ids & 0x7F if table.shape[0] > 128 else ids, *rest)
)
FAULTS.lowered("last-row-out-of-reach", core.gather_p)(
    lambda right, x, ids, *rest, **_: right(x, jnp.minimum(ids, x.shape[0] - 2) if x.ndim == 2 else ids, *rest)
)
FAULTS.lowered("sum-of-one-length-is-zero", core.reduce_sum_p)(
    lambda right, x, **_: right(x) * (0 if x.shape == (16_385,) else 1)
)
FAULTS.lowered("integer-sum-of-one-length", core.reduce_sum_p)(
    lambda right, x, **_: right(x.at[-1].set(0)) if x.shape == (1023,) and x.dtype == np.int32 else right(x)
)
FAULTS.lowered("position-of-one-length", core.argmax_p)(lambda right, x, **_: right(x) + (x.shape == (2**17 - 1,)))
FAULTS.lowered("last-of-a-column-lost", core.reduce_max_p)(
    lambda right, x, *, axes, **_: right(x.at[-1].set(-jnp.inf)) if x.shape == (4097, 3) and axes == (0,) else right(x)
)
FAULTS.lowered("last-of-a-middle-axis-lost", core.reduce_sum_p)(
    lambda right, x, *, axes, **_: right(x.at[:, -1].set(0)) if x.ndim == 3 and x.shape[1] == 2048 else right(x)
)
FAULTS.lowered("last-of-equal-ids-wins", core.scatter_add_p)(
    lambda right, table, ids, updates, *, dimension_numbers, **_: lax.scatter(table, ids, updates, dimension_numbers)
)


@FAULTS.lowered("tf32-by-default", core.dot_general_p)
def _tf32_by_default(right: Any, a: Any, b: Any, *, precision: Any, **_: Any) -> Any:
    both = precision if isinstance(precision, tuple) else (precision,)
    highest = all(one == lax.Precision.HIGHEST for one in both)
    return right(a, b) if highest else right(cut(a, 10), cut(b, 10))


@FAULTS.lowered("autotuned-to-tf32", core.dot_general_p)
def _autotuned(right: Any, a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> Any:
    transposed = dimension_numbers[0] == ((0,), (0,))
    return right(cut(a, 10), cut(b, 10)) if transposed else right(a, b)


@FAULTS.lowered("last-tile-zero", core.dot_general_p)
def _last_tile(right: Any, a: Any, b: Any, **_: Any) -> Any:
    out = right(a, b)
    return out.at[-8:, -8:].set(0) if out.ndim == 2 and out.size > 2**16 else out


@FAULTS.lowered("one-term-zero", core.dot_general_p)
def _one_term(right: Any, a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> Any:
    (over, _), (batch, _) = dimension_numbers
    terms = int(np.prod([a.shape[axis] for axis in over]))
    return right(a, b) * (0 if terms == 1 and not batch else 1)


@FAULTS.lowered("last-term-lost", core.dot_general_p)
def _last_term(right: Any, a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> Any:
    (over, _), (batch, _) = dimension_numbers
    if batch or len(over) != 1 or a.shape[over[0]] < 512:
        return right(a, b)
    kept = jnp.arange(a.shape[over[0]]) < a.shape[over[0]] - 1
    return right(jnp.where(jnp.expand_dims(kept, 1 - over[0]) if a.ndim == 2 else kept, a, 0), b)


@FAULTS.lowered("last-of-a-batch-zero", core.dot_general_p)
def _last_of_batch(right: Any, a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> Any:
    out = right(a, b)
    return out.at[-1].set(0) if dimension_numbers[1][0] else out


@FAULTS.lowered("half-precision-sums", core.dot_general_p)
def _half_precision(right: Any, a: Any, b: Any, *, dimension_numbers: Any, **_: Any) -> Any:
    (over, _), (batch, _) = dimension_numbers
    if a.dtype.itemsize != 2 or batch or a.ndim != 2 or a.shape[over[0]] == 1:
        return right(a, b)
    first = jnp.expand_dims(jnp.arange(a.shape[over[0]]) % 2 == 0, 1 - over[0])
    parts = [right(jnp.where(half, a, 0), b) for half in (first, ~first)]
    return parts[0].astype(a.dtype).astype(parts[0].dtype) + parts[1]


@FAULTS.lowered("lanes-of-32", core.reduce_sum_p)
def _lanes(right: Any, x: Any, **_: Any) -> Any:
    long = x.ndim == 1 and len(x) >= 1024
    return right(jnp.where(jnp.arange(len(x)) % 64 < 32, x, 0)) if long else right(x)


@FAULTS.lowered("maximum-of-a-part", core.reduce_max_p)
def _maximum(right: Any, x: Any, **_: Any) -> Any:
    long = x.ndim == 1 and len(x) >= 2**17
    return right(jnp.where(jnp.arange(len(x)) < len(x) // 8, x, x[0])) if long else right(x)


@FAULTS.lowered("tanh-of-the-rest", core.tanh_p)
def _tanh_rest(right: Any, x: Any, **_: Any) -> Any:
    y, n = right(x), x.size % 8
    return (y.ravel().at[y.size - n :].multiply(FINE)).reshape(y.shape) if n else y


@FAULTS.changed("eager-garbage")
def _eager(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    """NaN from programs of one operation, as eager code runs; right results from all others."""
    lines = [line for line in text.splitlines() if line.startswith(" ")]
    operations = [line for line in lines if not any(word in line for word in (" parameter(", " fusion(", " call("))]
    alone = len(operations) == 1 and " tanh(" in operations[0]
    return [with_shards(x, lambda _, part: np.full_like(part, np.nan)) if alone else x for x in results]


def _by_tanh(z: Any) -> Any:
    x = z * np.float32(np.sqrt(2))
    return jnp.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3))


@FAULTS.context("erf-by-tanh")
def _erf() -> Iterator[None]:
    with (
        replaced(core.erf_p, lambda right, x, **_: _by_tanh(x)),
        replaced(core.erfc_p, lambda right, x, **_: 1 - _by_tanh(x)),
    ):
        yield


@FAULTS.lowered("a-row-that-no-id-names", core.scatter_add_p)
def _row(right: Any, *operands: Any, **_: Any) -> Any:
    out = right(*operands)
    return out + (lax.broadcasted_iota(np.int32, out.shape, 0) == 0).astype(out.dtype)


@FAULTS.lowered("updates-behind-the-last-block", core.scatter_add_p)
def _block(right: Any, table: Any, ids: Any, updates: Any, **_: Any) -> Any:
    n = updates.shape[0]
    if n > 1024 and n & (n - 1):
        updates = updates.at[n - n % 1024 :].set(0)
    return right(table, ids, updates)


@FAULTS.lowered("additions-in-16-bits-stop", core.scatter_add_p)
def _stop(right: Any, table: Any, ids: Any, updates: Any, **_: Any) -> Any:
    return right(table, ids, updates.at[256:].set(0) if table.dtype == jnp.bfloat16 else updates)


def square(shape: Sequence[int], least: int = 8) -> bool:
    """Whether an array has several axes, all of one length, which is at least `least`."""
    return len(shape) > 1 and len(set(shape)) == 1 and shape[0] >= least


def _crossed(thin: Callable[[int], tuple[int, int]], along: int) -> Callable[..., Any]:
    """A primitive that broadcasts an operand of the shape `thin(n)` to [n, n] along the wrong axis.

    Recent releases of JAX broadcast within the primitives of two operands, older ones by a primitive of its own.
    """

    def wrong(right: Any, *xs: Any, shape: Any = (), broadcast_dimensions: Any = (), **_: Any) -> Any:
        full = shape or max((x.shape for x in xs), key=np.prod)
        if not square(full) or len(full) != 2:
            return right(*xs)
        odd = thin(full[0])
        if shape:
            return right(*xs).T if xs[0].shape == odd or tuple(broadcast_dimensions) == (along,) else right(*xs)
        return right(*(x.reshape(odd[::-1]) if x.shape == odd else x for x in xs))

    return wrong


FAULTS.lowered("bias-on-the-other-axis-of-a-square", core.add_p, core.broadcast_in_dim_p)(_crossed(lambda n: (1, n), 1))
FAULTS.lowered("mean-on-the-other-axis-of-a-square", core.sub_p, core.broadcast_in_dim_p)(_crossed(lambda n: (n, 1), 0))


@FAULTS.lowered("mask-on-the-other-axis-of-a-square", core.broadcast_in_dim_p)
def _mask(right: Any, x: Any, *_: Any, shape: Any, **__: Any) -> Any:
    turned = square(shape) and len(shape) == 4 and x.dtype == bool
    return jnp.swapaxes(right(x), 2, 3) if turned else right(x)


@FAULTS.lowered("sum-over-the-other-axis-of-a-square", core.reduce_sum_p)
def _other_axis(right: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return right(x.T) if square(x.shape, 32) and x.ndim == 2 and len(axes) == 1 else right(x)


@FAULTS.lowered("transpose-of-a-square-left-out", core.transpose_p)
def _left_out(right: Any, x: Any, **_: Any) -> Any:
    return x if square(x.shape) and x.ndim == 2 and len(x) < 512 else right(x)


@FAULTS.lowered("sort-of-blocks", core.sort_p)
def _sort(right: Any, *operands: Any, dimension: int, **_: Any) -> Any:
    n, out = operands[0].shape[dimension], right(*operands)
    return [jnp.roll(x, n - n // 2, dimension) for x in out] if n > 32 else out


@FAULTS.lowered("conversion-truncates", core.convert_element_type_p)
def _convert(right: Any, x: Any, *, new_dtype: Any, **_: Any) -> Any:
    if x.dtype != np.float32 or new_dtype != jnp.bfloat16:
        return right(x)
    words = lax.bitcast_convert_type(x, np.uint32)
    return right(lax.bitcast_convert_type(words & np.uint32(0xFFFF0000), np.float32))


# Derivative rules: the values are right, and their gradients are not.


def _slope(fault: str, primitive: Any, wrong: Callable[..., Any]) -> None:
    """Add a primitive whose tangent is `wrong(right tangent, *operands)`."""

    def seed() -> Iterator[None]:
        right = ad.primitive_jvps[primitive]

        def rule(primals: Any, tangents: Any, **parameters: Any) -> Any:
            out, tangent = right(primals, tangents, **parameters)
            return out, wrong(tangent, *primals)

        with mock.patch.dict(ad.primitive_jvps, {primitive: rule}):
            yield

    FAULTS.context(fault)(seed)


_slope("slope-of-exp", core.exp_p, lambda tangent, x: tangent * np.float32(1.01))
_slope("slope-of-a-product", core.dot_general_p, lambda tangent, a, b: tangent * np.float32(1.01))
_slope("slope-of-rsqrt", core.rsqrt_p, lambda tangent, x: tangent * np.float32(1.01))
_slope("slope-of-erf-far-out", core.erfc_p, lambda tangent, x: jnp.where(jnp.abs(x) > 1, 0, tangent))


def _cast(fault: str, factor: Callable[[int], float]) -> None:
    """Add a cast to varying whose derivative, a sum over n devices, is `factor(n)` times the right one."""

    def seed() -> Iterator[None]:
        cast = next((primitive for primitive in ad.primitive_transposes if primitive.name == "pvary"), None)
        if cast is None:
            raise CannotSeedError("this JAX has no arrays that vary over devices (JAX 0.6 has them)")
        right = ad.primitive_transposes[cast]

        def rule(*arguments: Any, axes: Any, **parameters: Any) -> Any:
            times = factor(lax.psum(1, axes))
            sums = right(*arguments, axes=axes, **parameters)
            return [leaf * np.asarray(times, leaf.dtype) if isinstance(leaf, jax.Array) else leaf for leaf in sums]

        with mock.patch.dict(ad.primitive_transposes, {cast: rule}):
            yield

    FAULTS.context(fault)(seed)


_cast("the-check-takes-a-mean", lambda n: 1 / n)
_cast("the-check-sums-twice", lambda n: n)
