#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: the gradient of a bfloat16 embedding table is added up in bfloat16, one token after the other. A word that
# is in the batch 1000 times, with a gradient of 1 each time, gets 256, since 256 + 1 is 256 in bfloat16. The same
# gradient by a product with one-hot vectors is 1000, and `jnp.sum` of 1000 ones is 1000.
# Expected: sums in float32 inside, as in products and in `jnp.sum`.
# Who meets this: anyone who trains with bfloat16 parameters: [CLS], [SEP] and every common word are in each batch that
# often. sftref keeps parameters in float32 under --precision bfloat16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
bfloat16: by lookup 256, by one-hot vectors 1000
float32: by lookup 1000, by one-hot vectors 1000
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import jax.numpy as jnp

ids = jnp.zeros(1000, int)
for dtype in (jnp.bfloat16, jnp.float32):
    table = jnp.zeros((2, 1), dtype)
    lookup = jax.grad(lambda t: t[ids].astype(jnp.float32).sum())(table)
    product = jax.grad(lambda t: (jax.nn.one_hot(ids, 2, dtype=t.dtype) @ t).astype(jnp.float32).sum())(table)
    print(f"{jnp.dtype(dtype).name}: by lookup {lookup[0, 0]:.0f}, by one-hot vectors {product[0, 0]:.0f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
