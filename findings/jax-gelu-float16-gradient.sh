#!/usr/bin/env bash
# JAX 0.10.2 with flax 0.12.8, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: the gradient of `jax.nn.gelu` in float16 is NaN for every input beyond 147.75 in size, on both sides. The
# value is right (148 for 148), as is the gradient in float32 and that of `approximate=False`. The default, the tanh
# form, differentiates x^3 to 3x^2, which overflows, and multiplies it by a derivative of tanh that is 0.
# `flax.linen.gelu` is the same function.
# Expected: 1 for large inputs and 0 for very negative ones. The documentation of `approximate` names no smaller range
# of inputs; float16 goes to 65504.
# Who meets this: anyone who trains in float16: outliers of that size occur in the hidden layers of large transformers.
# The loss is finite, so only the gradients tell, and a loss scaler takes the NaN for an overflow of its scale and
# halves that without end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
input 100: value 100, gradient 1, approximate=False 1, float32 1, flax 1
input 147.75: value 147.75, gradient 1, approximate=False 1, float32 1, flax 1
input 148: value 148, gradient nan, approximate=False 1, float32 1, flax nan
input 1000: value 1000, gradient nan, approximate=False 1, float32 1, flax nan
input -148: value 0, gradient nan, approximate=False 0, float32 0, flax nan
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import flax.linen
import jax
import jax.numpy as jnp

for number in (100, 147.75, 148, 1000, -148):
    x = jnp.float16(number)
    numbers = {
        "value": jax.nn.gelu(x),
        "gradient": jax.grad(jax.nn.gelu)(x),
        "approximate=False": jax.grad(lambda x: jax.nn.gelu(x, approximate=False))(x),
        "float32": jax.grad(jax.nn.gelu)(jnp.float32(number)),
        "flax": jax.grad(flax.linen.gelu)(x),
    }
    print(f"input {number}: " + ", ".join(f"{name} {float(value) + 0.0:g}" for name, value in numbers.items()))
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
