#!/usr/bin/env bash
# JAX 0.12.0.1 and 0.11.1, Python 3.12, simulated CPU devices, 2026-11-29.
#
# Behaviour: in JAX 0.12.0.1 the derivatives of `jax.lax.erf`, `erfc`, `jax.nn.gelu(approximate=False)` and
# `jax.scipy.stats.norm.cdf` in float32 raise ValueError inside `jax.shard_map` with its default `check_vma=True`, if the
# argument differs between devices: "Primitive polynomial requires varying manual axes to match". The functions
# themselves work there, and so does their derivative in bfloat16, outside of `shard_map`, and in JAX 0.11.1.
# Expected: the derivative, as in JAX 0.11.1.
# Who meets this: anyone who trains a BERT, whose GELU is the exact one, under `shard_map` with JAX 0.12. The way that the
# message suggests, `check_vma=False`, changes what gradients mean: those of replicated parameters are no longer summed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen-0.11.1" <<'SEEN'
erf: 0.4151
gelu, exact: 1.0833
gelu by tanh: 1.0830
erf of bfloat16: 0.4131
SEEN
cat > "$folder/seen-0.12.0.1" <<'SEEN'
erf: ValueError, Primitive polynomial requires varying manual axes to match
gelu, exact: ValueError, Primitive polynomial requires varying manual axes to match
gelu by tanh: 1.0830
erf of bfloat16: 0.4131
SEEN
for version in 0.11.1 0.12.0.1; do
  python3.12 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "jax==$version" "jaxlib==$version"
  JAX_PLATFORMS=cpu "$folder/$version/bin/python" - > "$folder/now" <<'PYTHON'
import functools

import jax

jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy
from jax.sharding import Mesh, PartitionSpec

mesh, rows = Mesh(numpy.array(jax.devices()), ("devices",)), PartitionSpec("devices")
x = numpy.ones(4, numpy.float32)
for name, function in (
    ("erf", lambda v: jax.lax.erf(v)),
    ("gelu, exact", functools.partial(jax.nn.gelu, approximate=False)),
    ("gelu by tanh", jax.nn.gelu),
    ("erf of bfloat16", lambda v: jax.lax.erf(v.astype(jnp.bfloat16)).astype(jnp.float32)),
):
    derivative = jax.grad(lambda v, function=function: function(v).sum())
    try:
        slopes = jax.jit(jax.shard_map(derivative, mesh=mesh, in_specs=rows, out_specs=rows))(x)
        print(f"{name}: {float(slopes[0]):.4f}")
    except ValueError as error:
        print(f"{name}: ValueError, {str(error).partition(', but got')[0]}")
PYTHON
  diff "$folder/seen-$version" "$folder/now" && echo "as recorded, JAX $version"
done
