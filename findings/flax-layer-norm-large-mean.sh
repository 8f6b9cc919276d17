#!/usr/bin/env bash
# flax 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `flax.linen.LayerNorm` computes the variance as E[x^2] - E[x]^2 by default. With BERT's epsilon, 1e-12, the
# row 10000, 10001, 10002, 10003 becomes -1.5e6 ... 1.5e6 instead of -1.34 ... 1.34: the difference of two numbers near
# 1e8 is rounded to 0 in float32. `use_fast_variance=False` is right.
# Expected: the largest entry of a normalized row of four is at most 1.74; PyTorch's LayerNorm gives 1.34 here.
# Who meets this: anyone who loads a BERT into Flax: its published epsilon is 1e-12, and outlier features make large
# means. sftref/model/layers.py sets `use_fast_variance=False`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
use_fast_variance=True: -1500000.00 -500000.00 500000.00 1500000.00
use_fast_variance=False: -1.34 -0.45 0.45 1.34
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import flax.linen as nn
import jax.numpy as jnp

parameters = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
row = 1e4 + jnp.arange(4.0)
for fast in (True, False):
    out = nn.LayerNorm(epsilon=1e-12, use_fast_variance=fast).apply(parameters, row)
    print(f"use_fast_variance={fast}:", *(f"{x:.2f}" for x in out))
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
