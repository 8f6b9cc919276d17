"""Rung 4: gradients of the operators, compared with hand-written backward passes and with finite differences."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.check import Check, NotRunReason
from ...core.comparison import Array
from ...machine.meshes import mesh_of, on_each, shard_map, varying
from ...oracle.bounds_derived import allowed
from ...oracle.draws import Rng, for_all, for_shapes, generators
from ..support import families, gradients, operators
from ..support.families import Args, normal
from ..support.operators import Exact, Machine
from ..support.running import law

LINEAR = {
    "quick": ((48, 96, 192), (33, 33, 33), (1, 33, 2)),
    "standard": ((128, 768, 64), (65, 7, 1)),
    "full": ((512, 768, 3072),),
}
HEADS = {"quick": ((3, 16, 2, 24), (9, 9, 9, 9)), "standard": ((3, 64, 4, 64),), "full": ((4, 256, 4, 64),)}


def compare(check: Check, machine: Machine, name: str, wrt: str, exact: list[Exact], args: Args, why: str) -> None:
    """Compare gradients with respect to an operator's first arguments, named in `wrt`; `args[0]` is the cotangent."""
    backward = operators.vjp(getattr(operators, name), len(exact))
    for where, leaves in machine.run(backward, *args):
        for leaf, got, (want, limit) in zip(wrt.split(), leaves, exact, strict=True):
            check.within(f"{name} by {leaf}, {args[1].shape}{where}", got, want, limit, allowed(why))


def _logits(rng: Rng, m: int, n: int, most: int) -> Array:
    """Logits [m, n], whose rows have magnitudes from 10^-2 to 10^most."""
    return normal(rng, m, n) * (10 ** rng.uniform(-2, most, (m, 1))).astype(np.float32)


@law("autodiff.linear", shapes=LINEAR)
def test_linear(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int, int]) -> None:
    """Compares the gradients with respect to input, weight and bias, also for one row, one column and odd sizes."""
    m, k, n = shape
    args = normal(rng, m, n), normal(rng, m, k), normal(rng, k, n), normal(rng, n)
    compare(check, machine, "linear", "x w b", gradients.linear(*args), args, "float32 sums")


@law("autodiff.softmax", shapes={"quick": ((33, 33),), "standard": ((64, 128), (3, 4099))})
def test_softmax(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int]) -> None:
    """Compares the gradient with respect to logits of magnitudes up to 100."""
    args = normal(rng, *shape), _logits(rng, *shape, most=2)
    reason = "the roundings of softmax itself (operators.softmax), and one more sum"
    compare(check, machine, "softmax", "x", gradients.softmax(*args), args, reason)


@law("autodiff.layer_norm", shapes={"quick": ((24, 96), (33, 33)), "standard": ((64, 768),), "full": ((1024, 768),)})
def test_layer_norm(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int]) -> None:
    """Compares the gradients with respect to input, scale and bias, for a mean of up to 100 standard deviations."""
    m, n = shape
    x = (normal(rng, m, n) + (10 ** rng.uniform(-1, 2, (m, 1)))) * 10 ** rng.uniform(-2, 2, (m, 1))
    args = normal(rng, m, n), x.astype(np.float32), normal(rng, n), normal(rng, n)
    why = "the mean's rounding over the deviation, two means"
    compare(check, machine, "layer_norm", "x scale bias", gradients.layer_norm(*args), args, why)


@law("autodiff.gelu", shapes={"quick": ((2_001,),), "standard": ((20_001,),)})
def test_gelu(check: Check, machine: Machine, rng: Rng, shape: tuple[int]) -> None:
    """Compares the gradient with respect to an input in [-5, 5]; `operators.gelu` compares the slope further out."""
    args = normal(rng, *shape), rng.uniform(-5, 5, shape).astype(np.float32)
    compare(check, machine, "gelu", "x", gradients.gelu(*args), args, "erfc 16 ulp, exp 3 ulp")


@law("autodiff.embedding")
def test_embedding(check: Check, machine: Machine) -> None:
    """Compares the gradient with respect to a table whose rows are read many times, once or never; integers exactly."""
    rows, width, n = (1009, 48, 257) if not check.at("standard") else (30_011, 16, 1031)

    def draw_ids(rng: Rng, most: int) -> Array:
        """Random ids [n], at least half of which come from only `most` rows."""
        ids = rng.integers(0, rows, n)
        often = int(rng.integers(n // 2, n))
        ids[:often] = rng.integers(0, rows, most)[rng.integers(0, most, often)]
        return rng.permutation(ids).astype(np.int32)

    def floats(g: Rng, shape: tuple[int]) -> None:
        args = normal(g, n, width), normal(g, rows, width), draw_ids(g, *shape)
        exact, why = gradients.embedding(*args), "5 u sqrt(k) of a sum of k terms"
        compare(check, machine, "gather", "table", exact, args, why)

    def integers(g: Rng) -> None:
        cotangent = g.integers(-8, 9, (n, width)).astype(np.float32)
        table, ids = normal(g, rows, width), draw_ids(g, 2)
        want = families.added(np.zeros_like(table), ids, cotangent)
        got = machine.first(operators.vjp(operators.gather, 1), cotangent, table, ids)[0]
        check.equal("gather by table, integers", got, want)

    for_shapes(check, {"quick": ((1,), (2,))}, floats)
    for_all(check, integers, g=generators())


@law("autodiff.cross_entropy", shapes={"quick": ((24, 3), (7, 33)), "standard": ((256, 2),)})
def test_cross_entropy(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int]) -> None:
    """Compares the gradient with respect to logits up to 10^4; each row has its own weight, which may be zero."""
    m, n = shape
    logits = _logits(rng, m, n, most=3)
    logits[0] = np.where(np.arange(n) == 0, 1e4, -1e4)
    labels = rng.integers(0, n, m).astype(np.int32)
    labels[0] = n - 1
    args = rng.integers(0, 4, m).astype(np.float32), logits, labels
    compare(check, machine, "cross_entropy", "logits", gradients.loss(*args), args, "as for softmax")


@law("autodiff.attention")
def test_attention(check: Check, machine: Machine) -> None:
    """Compares the gradients with respect to q, k and v with the backward pass, and a slope with a difference.

    Masks are ragged, and one example is fully masked.
    """

    def backward(g: Rng, shape: tuple[int, int, int, int]) -> None:
        args = normal(g, *shape), *families.draw_attention(g, *shape)
        why = "scores through exp, and sums over tokens and features"
        compare(check, machine, "attention", "q k v", gradients.attention(*args), args, why)

    def slope(g: Rng) -> None:
        """Compare the slope along a direction with a central difference of the float64 forward pass."""
        cotangent, *args = normal(g, 3, 5, 5, 8), *families.draw_attention(g, 3, 5, 5, 8)
        computed = machine.first(operators.vjp(operators.attention, 3), cotangent, *args)
        exact = gradients.attention(cotangent, *args)
        # A direction that is uphill in every element: along another one the slope may be as small as its bound.
        ways = [np.abs(g.standard_normal(leaf.value.shape)) * np.sign(leaf.value) for leaf in exact]
        wide, step = [leaf.astype(np.float64) for leaf in args[:3]], 1e-5
        ends = []
        for sign in (step, -step):
            q, k, v = (leaf + sign * way for leaf, way in zip(wide, ways, strict=True))
            ends.append(float((families.attention(q, k, v, args[3]).value * cotangent).sum()))
        want = np.array((ends[0] - ends[1]) / (2 * step))
        got = np.array(sum(float((leaf * way).sum()) for leaf, way in zip(computed, ways, strict=True)))
        # The difference is off by step^2 times the third derivative and 2^-53 / step of the value: about 1e-9.
        size = float(sum((np.abs(leaf) * np.abs(way)).sum() for leaf, way in zip(computed, ways, strict=True)))
        limit = sum(float((leaf.allowance * np.abs(way)).sum()) for leaf, way in zip(exact, ways, strict=True))
        why = allowed("the allowances of all elements, summed")
        check.within("attention along a direction", got, want, np.array(limit + 1e-8 * size), why, control=-want)

    for_shapes(check, HEADS, backward)
    for_all(check, slope, g=generators())


@law("autodiff.remat", draws=True)
def test_remat(check: Check, machine: Machine, rng: Rng) -> None:
    """Compares the gradients of a feed-forward block, with its intermediate values kept and recomputed.

    A second block recomputes from examples x tokens x features, as a layer of a model does.
    """
    m, k, n = 24, 48, 96
    dy, x, w = normal(rng, m, k), normal(rng, m, k), normal(rng, k, n) / np.float32(np.sqrt(k))
    args = (dy, x, w, normal(rng, n), normal(rng, n, k) / np.float32(np.sqrt(n)))
    exact = gradients.feed_forward(*args)
    for name, formula in (
        ("kept", operators.feed_forward),
        ("recomputed", operators.feed_forward_again),
        ("recomputed from three axes", operators.feed_forward_of_examples),
    ):
        for where, leaves in machine.run(operators.vjp(formula, 4), *args):
            for leaf, got, (want, limit) in zip(("x", "w_in", "b_in", "w_out"), leaves, exact, strict=True):
                why = allowed("three products and GELU's slope")
                check.within(f"feed_forward by {leaf}, {name}{where}", got, want, limit, why)


def gradient_of_sum(w: Any, x: Any, y: Any, weights: Any) -> tuple[Any, Any]:
    """The loss, sum weights (x w - y)^2 / 2 over all devices, and its gradient: sums of what each device computes."""
    value, slope = jax.value_and_grad(lambda w: (weights * (x @ w - y) ** 2).sum() / 2)(w)
    return jax.lax.psum((value, slope), "data")


def branching_gradient(w: Any, x: Any) -> Any:
    """The gradient, summed over devices, of a loss whose branch depends on the device's number."""

    def loss(w: Any) -> Any:
        even = jax.lax.axis_index("data") % 2 == 0
        return jax.lax.cond(even, lambda v: v.sum(), lambda v: 3 * v.sum(), x * w)

    return jax.lax.psum(jax.grad(loss)(w), "data")


@law("autodiff.collectives", devices=2)
def test_collectives(check: Check, devices: list[Any]) -> None:
    """Compares integer gradients for shards of unequal weight, one of them empty; then a gradient through a branch."""
    n, width = len(devices), 5
    # With `check` on, JAX itself would sum over devices where `w` is used, and no misplaced sum could be seen.
    summed, branching = (on_each(one, mesh_of(devices), check=False) for one in (gradient_of_sum, branching_gradient))

    def compare_sum(rng: Rng) -> None:
        x = rng.integers(-3, 4, (4 * n, width)).astype(np.float32)
        w, y = rng.integers(-3, 4, width).astype(np.float32), 2 * rng.integers(-3, 4, 4 * n).astype(np.float32)
        weights = 2 * rng.integers(0, 3, 4 * n).astype(np.float32)
        weights[-4:], weights[0] = 0, 2
        values, slopes = summed(np.tile(w, (n, 1)), *(leaf.reshape(n, 4, *leaf.shape[1:]) for leaf in (x, y, weights)))
        error = x @ w - y
        want = x.T @ (weights * error)
        control = n * want if want.any() else want + 1
        check.equal("the gradient on every device", slopes, np.tile(want, (n, 1)), control=np.tile(control, (n, 1)))
        loss = np.full(n, (weights * error**2).sum() / 2, np.float32)
        check.equal("the loss on every device", values, loss, control=loss + 1)

    for_all(check, compare_sum, rng=generators())
    x = np.arange(1, 2 * n + 1, dtype=np.float32)
    got = branching(np.full(n, 2, np.float32), x.reshape(n, 2))
    want = sum((1 if i % 2 == 0 else 3) * float(x[2 * i : 2 * i + 2].sum()) for i in range(n))
    check.equal("a gradient through a branch", got, np.full(n, want, np.float32), control=np.full(n, x.sum()))


def own_loss(w: Any, x: Any, y: Any) -> Any:
    """The loss of the rows of one device, sum (x w - y)^2 / 2."""
    return ((x @ w - y) ** 2).sum() / 2


def replicated_gradients(mesh: Mesh) -> dict[str, Callable[..., Any]]:
    """Way to differentiate -> a function from w, replicated, and stacked rows to the gradients, one of each device."""
    own, same, rows = jax.grad(own_loss), PartitionSpec(), PartitionSpec("data")

    def of_sum(w: Any, *data: Any) -> Any:
        return jax.grad(lambda w: jax.lax.psum(own_loss(w, *data), "data"))(w)

    ways = {
        "with the check": (own, same, True),
        "with the check, of a loss summed over the devices": (of_sum, same, True),
        "of a parameter cast to varying": (lambda w, *data: own(varying(w), *data)[None], rows, True),
        "without the check": (lambda w, *data: own(w, *data)[None], rows, False),
    }
    return {
        name: jax.jit(shard_map(function, mesh, (same, rows, rows), gives, check=check))
        for name, (function, gives, check) in ways.items()
    }


@law("autodiff.replicated", devices=2)
def test_replicated(check: Check, devices: list[Any]) -> None:
    """Compares integer gradients of a replicated parameter, which JAX sums over the devices or not, as documented."""
    check.need(hasattr(jax, "shard_map"), "needs jax.shard_map (JAX 0.6.1)", NotRunReason.NOT_APPLICABLE)
    n, width = len(devices), 5
    mesh = mesh_of(devices)
    place, programs = NamedSharding(mesh, PartitionSpec("data")), replicated_gradients(mesh)

    def compare_ways(rng: Rng) -> None:
        x, w = (rng.integers(-3, 4, size).astype(np.float32) for size in ((4 * n, width), width))
        y = 2 * rng.integers(-3, 4, 4 * n).astype(np.float32)
        own = np.stack([part.T @ error for part, error in zip(np.split(x, n), np.split(x @ w - y, n), strict=True)])
        summed = np.tile(own.sum(0), (n, 1))
        for name, program in programs.items():
            result = program(jax.device_put(w, NamedSharding(mesh, PartitionSpec())), *jax.device_put((x, y), place))
            shards = sorted(result.addressable_shards, key=lambda shard: devices.index(shard.device))
            got = np.concatenate([np.atleast_2d(shard.data) for shard in shards])
            want, other = (summed, own) if name.startswith("with the check") else (own, summed)
            control = np.where((want == other).all(), other + 1, other)
            check.equal(f"the gradient on every device, {name}", got, want, control=control)

    for_all(check, compare_ways, rng=generators())


@law("autodiff.nan", draws=True)
def test_nan(check: Check, machine: Machine, rng: Rng) -> None:
    """Looks for NaN in the gradients of rows that contain a NaN, of other rows, and of rows that `where` excludes."""
    rows = np.arange(9)
    x, cotangent = normal(rng, 9, 33), normal(rng, 9, 33)
    row, hidden = (int(i) for i in rng.choice(9, 2, replace=False))
    own = [i == row for i in rows]
    for name in ("softmax", "gelu", "tanh"):
        formula, bad = operators.vjp(getattr(operators, name), 1), x.copy()
        clean = machine.first(formula, cotangent, x)[0]
        bad[row, 3] = np.nan
        got = machine.first(formula, cotangent, bad)[0]
        check.same(f"{name}: NaN in the gradient of the row that has one", bool(np.isnan(got[row]).any()), True)
        check.equal(f"{name}: gradients of the other rows", got[rows != row], clean[rows != row])
        above = cotangent.copy()
        above[row, 3] = np.nan
        got = machine.first(formula, above, x)[0]
        check.same(f"{name}: rows with NaN where one comes from above", _rows_with_nan(got), own)
    x[row, 0], x[hidden] = np.nan, np.inf
    (got,) = machine.first(operators.vjp(operators.guarded_losses, 1), np.ones(9, np.float32), x, rows != hidden)
    check.same("rows with NaN, of a loss that leaves one row out", _rows_with_nan(got), own)
    check.same("the largest gradient of the row left out", float(np.abs(got[hidden]).max()), 0.0)


def _rows_with_nan(array: Array) -> list[bool]:
    return [bool(np.isnan(row).any()) for row in array]
