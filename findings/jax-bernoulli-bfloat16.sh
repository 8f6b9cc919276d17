#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jax.random.bernoulli` compares with uniform numbers in the dtype of `p`. In bfloat16 these are multiples
# of 1/128, so `p` is rounded up to the next of them: with p = 0.001 the rate is 0.0077, eight times too high, and
# with p = 0.01 it is 0.0154. In float16 0.001 gives 0.0020.
# Expected: a rate of p, to the precision of p's dtype, which is 0.4 % of p for bfloat16. The documentation of `mode`
# gives a bound on the error for float32 only (1e-7).
# Who meets this: anyone whose dropout, masking or noise rate is an array in the dtype of the model, such as a rate on
# a schedule. A Python float is converted to float32 and is right. sftref draws in float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
float32: 0.001 0.0010, 0.01 0.0099, 0.1 0.1000
float16: 0.001 0.0020, 0.01 0.0108, 0.1 0.1010
bfloat16: 0.001 0.0077, 0.01 0.0154, 0.1 0.1018
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import jax.numpy as jnp

key = jax.random.key(0)
for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
    rates = [float(jax.random.bernoulli(key, jnp.asarray(p, dtype), (1_000_000,)).mean()) for p in (0.001, 0.01, 0.1)]
    print(f"{jnp.dtype(dtype).name}: 0.001 {rates[0]:.4f}, 0.01 {rates[1]:.4f}, 0.1 {rates[2]:.4f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
