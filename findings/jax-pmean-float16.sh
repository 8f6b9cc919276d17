#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, simulated CPU devices, 2026-11-29.
#
# Behaviour: `jax.lax.pmean` adds float16 numbers up in float16 and divides then. The mean over four devices of 20000
# each is infinite, since 80000 is beyond float16. `jnp.mean` of the same four numbers, on one device or sharded over
# four, is 20000.
# Expected: a mean that lies between its numbers.
# Who meets this: anyone who averages float16 gradients over devices with a scaled loss: with more devices the same
# scale overflows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
pmean over 2 devices: 20000.0
pmean over 4 devices: inf
jnp.mean, sharded over 4 devices: 20000.0
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax

jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

for count in (2, 4):
    values = numpy.full(count, 20000, numpy.float16)
    mean = jax.pmap(lambda x: jax.lax.pmean(x, "devices"), "devices", devices=jax.devices()[:count])(values)
    print(f"pmean over {count} devices: {float(mean[0])}")
spread = NamedSharding(Mesh(numpy.array(jax.devices()), ("devices",)), PartitionSpec("devices"))
print(f"jnp.mean, sharded over 4 devices: {float(jax.jit(jnp.mean)(jax.device_put(values, spread)))}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
