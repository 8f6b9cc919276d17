#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `optax.clip_by_global_norm` squares float16 gradients in float16. Ten finite entries of 300 have squares
# that overflow, the norm is infinite, and every gradient becomes exactly 0: the update is lost without a NaN or a
# warning. Ten entries of 3e-5 have squares that underflow, so their norm is 0.
# Expected: entries of 1/sqrt(10) after clipping to norm 1, as in float32; 300 is far from float16's largest number,
# 65504.
# Who meets this: anyone who trains in float16 with clipping, above all with a scaled loss, which makes gradients large.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
float16, entries of 300: norm inf, clipped entry 0.0000
float32, entries of 300: norm 948.7, clipped entry 0.3162
float16, entries of 3e-05: norm 0, clipped entry 0.0000
float32, entries of 3e-05: norm 9.487e-05, clipped entry 0.0000
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
import optax

for entry in (300.0, 3e-5):
    for dtype in (jnp.float16, jnp.float32):
        gradient = jnp.full(10, entry, dtype)
        clip = optax.clip_by_global_norm(1.0)
        clipped, _ = clip.update(gradient, clip.init(gradient))
        norm = float(optax.global_norm(gradient))
        print(f"{jnp.dtype(dtype).name}, entries of {entry:g}: norm {norm:.4g}, clipped entry {float(clipped[0]):.4f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
