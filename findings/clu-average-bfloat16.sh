#!/usr/bin/env bash
# clu 0.0.12 with flax 0.12.8 and JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `clu.metrics.Average` keeps its total in the dtype of the values, and `merge` adds totals in it. The mean
# of 2000 batches of 64 bfloat16 losses that are all 2 is 0.26: the total stops growing at 32768. There is no warning.
# A merge into `Average.empty()`, whose total is float32, gives 2; the loop in its documentation begins with the first
# batch.
# Expected: a mean that lies between its values; `flax.nnx.metrics.Average` adds up in float32.
# Who meets this: anyone who averages bfloat16 losses over an epoch: the longer the epoch, the smaller the loss.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8 clu==0.0.12
cat > "$folder/seen" <<'SEEN'
float32: mean of 2000 batches of loss 2: 2.00
bfloat16: mean of 2000 batches of loss 2: 0.26
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import clu.metrics
import jax.numpy as jnp

for dtype in (jnp.float32, jnp.bfloat16):
    total = None
    for _ in range(2000):
        batch = clu.metrics.Average.from_model_output(jnp.full(64, 2.0, dtype))
        total = batch if total is None else total.merge(batch)
    print(f"{jnp.dtype(dtype).name}: mean of 2000 batches of loss 2: {float(total.compute()):.2f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
