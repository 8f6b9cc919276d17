#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jnp.histogram` counts in the dtype of the data, one number after the other. In bfloat16 a bin stops at
# 256 and in float16 at 2048, without a warning. Bins with 200, 8000 and 1800 numbers get 200, 256 and 256, so that
# the largest is no longer seen.
# Expected: counts in integers or in float32, as `numpy.histogram` and `jnp.bincount` give for the same numbers.
# Who meets this: anyone who logs histograms of gradients, activations or weights of a bfloat16 model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
float32: [200, 8000, 1800, 0], in all 10000
float16: [200, 2048, 1800, 0], in all 4048
bfloat16: [200, 256, 256, 0], in all 712
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp

for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
    gradients = jnp.repeat(jnp.array([-0.75, -0.25, 0.25], dtype), jnp.array([200, 8000, 1800]))
    counts, _ = jnp.histogram(gradients, bins=4, range=(-1, 1))
    print(f"{jnp.dtype(dtype).name}: {[round(float(count)) for count in counts]}, in all {round(float(counts.sum()))}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
