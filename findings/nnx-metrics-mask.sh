#!/usr/bin/env bash
# flax 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `flax.nnx.MultiMetric.update(..., mask=mask)` masks `Average` and `Accuracy`, while `Welford` takes the
# mask for a further value that it does not need, and counts the padding. With a mask of shape (2, 1), which
# broadcasts as is documented, `Average` divides by the entries of the mask instead of those that it selects: the
# share of right tokens is 2. (The second is known: google/flax#5588, open.)
# Expected: 0.67 from both, with both masks, or an error for a mask that is not used.
# Who meets this: anyone who evaluates padded batches with these metrics, per token or with a deviation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
mask (2, 3): Average 0.67, Welford 1.50
mask (2, 1): Average 2.00, Welford 1.50
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
from flax import nnx

values = jnp.array([[1.0, 0.0, 1.0], [1.0, 1.0, 5.0]])
for mask in (jnp.array([[True] * 3, [False] * 3]), jnp.array([[True], [False]])):
    metrics = nnx.MultiMetric(average=nnx.metrics.Average("correct"), welford=nnx.metrics.Welford("correct"))
    metrics.update(correct=values, mask=mask)
    result = metrics.compute()
    print(f"mask {mask.shape}: Average {float(result['average']):.2f}, Welford {float(result['welford'].mean):.2f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
