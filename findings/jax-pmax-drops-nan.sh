#!/usr/bin/env bash
# JAX 0.10.2 and 0.5.3, Python 3.11, simulated CPU devices, 2026-11-29.
#
# Behaviour: on CPU devices `jax.lax.pmax` and `pmin` lose a NaN that one device has, and so does `jnp.max` of an array
# that is sharded over devices. The maximum over devices of 1, NaN, 3, 4 is 4. `jnp.max` on one device gives NaN.
# Expected: NaN, as `jnp.max` and `jax.lax.max` are documented to give, on any number of devices.
# Who meets this: anyone who looks for a NaN by a maximum over devices, or scales a loss by one (dynamic loss scaling,
# the softmax of a vocabulary that is sharded): one device's NaN is invisible to the others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen" <<'SEEN'
pmax of [1.0, nan, 3.0, 4.0]: 4.0
pmin of [1.0, nan, 3.0, 4.0]: 1.0
jnp.max, sharded over 4 devices: 4.0
jnp.max, on one device: nan
SEEN
for version in 0.5.3 0.10.2; do
  python3.11 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "jax==$version" "jaxlib==$version"
  JAX_PLATFORMS=cpu "$folder/$version/bin/python" - > "$folder/now" <<'PYTHON'
import jax

jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

values = numpy.array([1, numpy.nan, 3, 4], numpy.float32)
for name, function in (("pmax", jax.lax.pmax), ("pmin", jax.lax.pmin)):
    result = jax.pmap(lambda x, function=function: function(x, "devices"), axis_name="devices")(values)
    print(f"{name} of {values.tolist()}: {float(result[0])}")
spread = NamedSharding(Mesh(numpy.array(jax.devices()), ("devices",)), PartitionSpec("devices"))
print("jnp.max, sharded over 4 devices:", float(jax.jit(jnp.max)(jax.device_put(values, spread))))
print("jnp.max, on one device:", float(jax.jit(jnp.max)(values)))
PYTHON
  diff "$folder/seen" "$folder/now" && echo "as recorded, JAX $version"
done
