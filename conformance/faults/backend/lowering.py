"""A JAX primitive -> the same primitive, compiled wrongly: its lowering rule is replaced.

So the fault reaches every caller: eager and compiled code, forward and backward, `jit`, `shard_map` and `pmap`. The
tables of rules are private to JAX; if a release keeps them elsewhere, `CannotSeedError` says so.
"""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

Wrong = Callable[..., Any]


class CannotSeedError(Exception):
    """The fault cannot be seeded with this release of JAX or on this machine."""


@contextlib.contextmanager
def replaced(primitive: Any, wrong: Wrong, platform: str | None = None) -> Iterator[None]:
    """Compile `wrong` for a primitive inside the `with` block.

    Args:
        primitive: the JAX primitive to replace.
        wrong: (right, *operands, **parameters) -> output, or a list of outputs if the primitive has several. `right`
            is the original primitive; it takes operands of the same shapes, and keywords that replace its parameters.
        platform: cpu, cuda, rocm or tpu; None for all.

    Raises:
        CannotSeedError: this release of JAX has no lowering rule for the primitive, or none in these tables.
    """
    mlir = importlib.import_module("jax._src.interpreters.mlir")
    try:
        general, special = mlir._lowerings, mlir._platform_specific_lowerings
    except AttributeError as error:
        raise CannotSeedError(
            f"JAX {jax.__version__} does not keep its lowering rules in jax._src.interpreters.mlir"
        ) from error
    tables = [general, *special.values()] if platform is None else [special[platform]]
    lent = platform is not None and primitive in general and primitive not in tables[0]
    if lent:
        tables[0][primitive] = general[primitive]
    kept = [(table, table[primitive]) for table in tables if primitive in table]
    if not kept:
        raise CannotSeedError(f"JAX {jax.__version__} has no lowering rule for {primitive}")
    clones: list[Any] = []
    for table, entry in kept:
        # Before JAX 0.7 an entry is the rule itself.
        is_rule = callable(entry)
        rule = _wrapped(mlir, primitive, entry if is_rule else entry.rule, wrong, clones)
        table[primitive] = rule if is_rule else dataclasses.replace(entry, rule=rule)
    try:
        yield
    finally:
        for table, entry in kept:
            table[primitive] = entry
        if lent:
            del tables[0][primitive]
        for clone in clones:
            mlir._lowerings.pop(clone, None)


def _wrapped(mlir: Any, primitive: Any, original: Any, wrong: Wrong, clones: list[Any]) -> Any:
    """A lowering rule that compiles `wrong`, whose `right` compiles by the original rule."""
    from jax.extend.core import Primitive

    def rule(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        clone = Primitive(f"right_{primitive.name}")
        clone.multiple_results = True
        clone.def_abstract_eval(lambda *_, **__: list(ctx.avals_out))
        mlir.register_lowering(clone, lambda inner, *values, **other: original(inner, *values, **parameters | other))
        clones.append(clone)

        def right(*values: Any, **other: Any) -> Any:
            outputs = clone.bind(*values, **other)
            return outputs if primitive.multiple_results else outputs[0]

        def listed(*values: Any) -> Sequence[Any]:
            outputs = wrong(right, *values, **parameters)
            return outputs if primitive.multiple_results else [outputs]

        return mlir.lower_fun(listed, multiple_results=True)(ctx, *operands)

    return rule


def device_number() -> Any:
    """The number of the device, from 0, uint32; for `wrong` functions of programs over a mesh."""
    return _device_number().bind()


@functools.cache
def _device_number() -> Any:
    from jax.extend.core import Primitive

    mlir = importlib.import_module("jax._src.interpreters.mlir")
    core = importlib.import_module("jax._src.core")
    hlo = importlib.import_module("jax._src.lib.mlir.dialects").hlo
    primitive = Primitive("device_number")
    primitive.def_abstract_eval(lambda: core.ShapedArray((), jax.numpy.uint32))
    mlir.register_lowering(primitive, lambda ctx: [hlo.PartitionIdOp().result])
    return primitive
