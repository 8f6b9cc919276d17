"""Sums of one shard -> global sums: the function that each device runs by itself, and the one reduction after it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

Axes = str | tuple[str, ...]


def sum_over(tree: Any, axes: Axes, *, in_one: bool) -> Any:
    """The sum of each leaf over the devices along `axes`, the same on each of them.

    Args:
        tree: arrays of one device.
        axes: one or more axis names of `pmap` or of a mesh.
        in_one: put the leaves of a dtype into one flat buffer, so that there is one message for each dtype. XLA's CPU
            client sends each leaf by itself; compilers for accelerators combine them (`all-reduce-combiner`).
    """
    if not in_one:
        return lax.psum(tree, axes)
    leaves, structure = jax.tree.flatten(tree)
    summed: list[Array] = list(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [k for k, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = lax.psum(jnp.concatenate([leaves[k].ravel() for k in places]), axes)
        start = 0
        for k in places:
            leaf = leaves[k]
            summed[k] = lax.slice_in_dim(flat, start, start + leaf.size).reshape(leaf.shape)
            start += leaf.size
    return jax.tree.unflatten(structure, summed)


def sends_leaves(devices: Any) -> bool:
    """Whether each leaf of a sum is a message of its own: between processes whose devices are CPUs (gloo)."""
    return devices[0].platform == "cpu" and len({device.process_index for device in devices}) > 1


def per_shard(function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` run by each device on its shards; without the check that results are replicated."""
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    from jax.experimental.shard_map import shard_map  # before JAX 0.6.1

    mapped: Callable[..., Any] = shard_map(function, mesh, in_specs=in_specs, out_specs=out_specs, check_rep=False)
    return mapped
