#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `optax.global_norm` adds the squares of all leaves up in the dtype of the leaves. In bfloat16 the sum stops
# growing: 600 leaves with one entry of 1 each have the norm 16 instead of 24.5, so `clip_by_global_norm(1.0)` leaves a
# gradient of norm 1.53 instead of 1. The sum within a leaf is right: one leaf with 600 entries gives 24.5.
# Expected: the same norm however the entries are divided into leaves, to bfloat16's precision.
# Who meets this: anyone who clips bfloat16 gradients of a deep model, which has hundreds of leaves. sftref keeps
# gradients in float32 under --precision bfloat16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
bfloat16: 600 leaves 16.0, one leaf 24.5, norm after clipping to 1: 1.53
float32: 600 leaves 24.5, one leaf 24.5, norm after clipping to 1: 1.00
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
import numpy
import optax

for dtype in (jnp.bfloat16, jnp.float32):
    leaves = [jnp.ones(1, dtype)] * 600
    clip = optax.clip_by_global_norm(1.0)
    clipped, _ = clip.update(leaves, clip.init(leaves))
    norm = numpy.linalg.norm([float(leaf[0]) for leaf in clipped])
    one = optax.global_norm(jnp.ones(600, dtype))
    name = jnp.dtype(dtype).name
    print(f"{name}: 600 leaves {optax.global_norm(leaves):.1f}, one leaf {one:.1f}, norm after clipping to 1: {norm:.2f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
