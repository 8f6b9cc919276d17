#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.losses.multiclass_generalized_dice_loss` weights a class by 1 / (pixels^2 + 1e-7). A class that no
# pixel of the batch has gets the weight 1e7, and the weights are normalized to a fixed sum: all other classes weigh
# almost nothing. A prediction that is wrong in every pixel has the loss 6e-10, as long as it avoids the absent class.
# Without that class the loss is 0.96.
# Expected: a loss near 1 for a prediction without one right pixel. The documentation says that the weights help with
# classes of different frequency.
# Who meets this: anyone who segments rare classes: a batch without one of them, which small batches and shards often
# lack, teaches nothing but to avoid that class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
3 classes: all pixels right 0.0000, all wrong 0.9552
4 classes, one absent: all pixels right 0.0000, all wrong 0.0000
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax
import jax.numpy as jnp
import optax

labels = jnp.arange(64).reshape(1, 8, 8) % 3
for name, count in (("3 classes", 3), ("4 classes, one absent", 4)):
    target = jax.nn.one_hot(labels, count)
    right = 50 * target
    wrong = 50 * jax.nn.one_hot((labels + 1) % 3, count)
    losses = [optax.losses.multiclass_generalized_dice_loss(logits, target) for logits in (right, wrong)]
    print(f"{name}: all pixels right {float(losses[0]):.4f}, all wrong {float(losses[1]):.4f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
