#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jax.random.categorical` draws its Gumbel noise in the dtype of the logits. In bfloat16 that noise has
# 128 values and is at most 4.84, and equal maxima go to the first index. 1000 draws from 50000 equal tokens all fall
# among the first 918. A last token with a logit of 6, whose probability is 0.8 %, comes in 96 % of the draws.
# `mode="high"` is better, and still prefers the first tokens: the mean index is 13844 and should be 25000.
# Expected: the softmax of the logits, to bfloat16's precision, as for float32. The documentation gives a bound on the
# error for float32 only. jax-ml/jax#30879 reports that other samples come in bfloat16, and not that they are biased.
# Who meets this: anyone who samples from a model with bfloat16 logits (generation, distillation, masking by a score).
# Convert the logits to float32 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
float32, mode low: mean 24540, largest 49915
bfloat16, mode low: mean 139, largest 917
bfloat16, mode high: mean 13844, largest 49938
float32: last token 0.7 %
bfloat16: last token 96.1 %
its probability 0.8 %
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import jax.numpy as jnp

for dtype, mode in ((jnp.float32, "low"), (jnp.bfloat16, "low"), (jnp.bfloat16, "high")):
    tokens = jax.random.categorical(jax.random.key(0), jnp.zeros(50000, dtype), shape=(1000,), mode=mode)
    print(f"{jnp.dtype(dtype).name}, mode {mode}: mean {float(tokens.mean()):.0f}, largest {int(tokens.max())}")
logits = jnp.zeros(50000).at[-1].set(6.0)
for dtype in (jnp.float32, jnp.bfloat16):
    tokens = jax.random.categorical(jax.random.key(0), logits.astype(dtype), shape=(1000,))
    print(f"{jnp.dtype(dtype).name}: last token {100 * float((tokens == 49999).mean()):.1f} %")
print(f"its probability {100 * float(jax.nn.softmax(logits)[-1]):.1f} %")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
