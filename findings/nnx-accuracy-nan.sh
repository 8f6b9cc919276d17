#!/usr/bin/env bash
# flax 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `flax.nnx.metrics.Accuracy` takes a row of NaN for a prediction of class 0, since the largest of NaNs is
# the first. A model that has diverged is scored with the share of class 0: 0.75 here. `nnx.metrics.Average` of its
# losses is NaN.
# Expected: NaN, or a row that counts as wrong.
# Who meets this: anyone who selects checkpoints by accuracy on a data set in which class 0 is frequent. sftref did the
# same, and now refuses to score such logits (sftref/train/loop.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
accuracy of NaN logits 0.75, mean of NaN losses nan
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
from flax import nnx

accuracy, loss = nnx.metrics.Accuracy(), nnx.metrics.Average("loss")
accuracy.update(logits=jnp.full((4, 3), jnp.nan), labels=jnp.array([0, 0, 0, 2]))
loss.update(loss=jnp.full(4, jnp.nan))
print(f"accuracy of NaN logits {accuracy.compute():.2f}, mean of NaN losses {loss.compute()}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
