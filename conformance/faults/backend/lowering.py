"""A primitive of JAX -> the same one, wrong: what is compiled for it is replaced below every caller.

Whatever binds the primitive meets the fault: eager code and compiled, forward and backward, `jit`, `shard_map` and
`pmap`. The rules are private to JAX: where a release keeps them elsewhere a fault says that it cannot be seeded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

Wrong = Callable[..., Any]


class CannotSeedError(Exception):
    """This JAX, or this machine, has no place for the fault."""


@contextlib.contextmanager
def replaced(primitive: Any, wrong: Wrong, platform: str | None = None) -> Iterator[None]:
    """Compile `wrong` for a primitive, for every platform or for one.

    Args:
        primitive: of JAX.
        wrong: (right, *operands, **parameters) -> outputs, a list where the primitive has several; `right` is what the
            primitive does by itself, for operands of the same shapes, and may be given other parameters.
        platform: as JAX calls it: cpu, cuda, rocm or tpu; None for all.

    Raises:
        CannotSeedError: this JAX keeps no rule for the primitive where it is looked for.
    """
    mlir = importlib.import_module("jax._src.interpreters.mlir")
    try:
        general, special = mlir._lowerings, mlir._platform_specific_lowerings
    except AttributeError as error:
        raise CannotSeedError(f"JAX {jax.__version__} keeps its lowering rules elsewhere") from error
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
    """A lowering rule that compiles `wrong`, to which the original one is `right`."""
    from jax.extend.core import Primitive

    def rule(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        clone = Primitive(f"right_{primitive.name}")
        clone.multiple_results = True
        clone.def_abstract_eval(lambda *_, **__: list(ctx.avals_out))
        mlir.register_lowering(clone, lambda inner, *given, **other: original(inner, *given, **parameters | other))
        clones.append(clone)

        def right(*given: Any, **other: Any) -> Any:
            outputs = clone.bind(*given, **other)
            return outputs if primitive.multiple_results else outputs[0]

        def all_of_it(*given: Any) -> Sequence[Any]:
            outputs = wrong(right, *given, **parameters)
            return outputs if primitive.multiple_results else [outputs]

        return mlir.lower_fun(all_of_it, multiple_results=True)(ctx, *operands)

    return rule


def device_number() -> Any:
    """Inside of `wrong`, on the devices of a mesh: which one this is, from 0, uint32."""
    return _device_number().bind()


def _device_number() -> Any:
    if not _PRIMITIVES:
        from jax.extend.core import Primitive

        mlir = importlib.import_module("jax._src.interpreters.mlir")
        core = importlib.import_module("jax._src.core")
        hlo = importlib.import_module("jax._src.lib.mlir.dialects").hlo
        found = Primitive("device_number")
        found.def_abstract_eval(lambda: core.ShapedArray((), jax.numpy.uint32))
        mlir.register_lowering(found, lambda ctx: [hlo.PartitionIdOp().result])
        _PRIMITIVES.append(found)
    return _PRIMITIVES[0]


_PRIMITIVES: list[Any] = []
