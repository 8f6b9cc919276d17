#!/usr/bin/env bash
# JAX 0.12.0.1 and 0.11.1, Python 3.12, simulated CPU devices, 2026-11-29.
#
# Behaviour: a jitted function returns an array under `jax.lax.with_sharding_constraint`, and the devices do not divide
# the axis. JAX 0.11.1 accepts every number of rows, ignores the constraint and returns a replicated array. JAX 0.12.0.1
# still does so if rows and devices have no common factor (7 rows, 4 devices); if they have one (6 rows), it raises
# IndivisibleError, and its message has neither the array's shape nor the argument's name.
# Expected: one rule for all numbers of rows, and a message that names the array. `jax.jit(..., out_shardings=...)` and
# `jax.device_put` refuse both numbers of rows in both releases, with the shape.
# Who meets this: a program that constrains activations of ragged batches and returns one of them, such as logits. It
# worked until the upgrade, and may still work for the batch sizes that its tests use.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen-0.11.1" <<'SEEN'
8 rows on 4 devices: 2 rows on the first device
7 rows on 4 devices: 7 rows on the first device
6 rows on 4 devices: 6 rows on the first device
SEEN
cat > "$folder/seen-0.12.0.1" <<'SEEN'
8 rows on 4 devices: 2 rows on the first device
7 rows on 4 devices: 7 rows on the first device
6 rows on 4 devices: IndivisibleError, shape=[2, 2] is incompatible with mesh_shape=OrderedDict({'data': 4})
SEEN
for version in 0.11.1 0.12.0.1; do
  python3.12 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "jax==$version" "jaxlib==$version"
  JAX_PLATFORMS=cpu "$folder/$version/bin/python" - > "$folder/now" <<'PYTHON'
import jax

jax.config.update("jax_num_cpu_devices", 4)
import numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

place = NamedSharding(Mesh(numpy.array(jax.devices()), ("data",)), PartitionSpec("data"))
constrained = jax.jit(lambda v: jax.lax.with_sharding_constraint(2 * v, place))
for rows in (8, 7, 6):
    try:
        first = constrained(numpy.arange(rows)).addressable_shards[0].data
        result = f"{len(first)} rows on the first device"
    except ValueError as error:
        result = f"{type(error).__name__}, {str(error).partition(': dim')[0]}"
    print(f"{rows} rows on 4 devices: {result}")
PYTHON
  diff "$folder/seen-$version" "$folder/now" && echo "as recorded, JAX $version"
done
