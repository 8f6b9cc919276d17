#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.losses.dice_loss` documents three shapes for logits: [..., num_classes], and [..., 1] or [...] for
# binary segmentation. With [...], that is images of shape (batch, height, width), it takes the columns of the image for
# classes: a softmax over each row, and no sigmoid. The loss of a perfect prediction is 0.62 then; with [..., 1], or
# with [...] against [..., 1], it is 0. `binary_dice_loss` adds the axis itself, and its other documented mode,
# `apply_sigmoid=False`, raises ValueError for probabilities, since those of one class do not add up to 1.
# Expected: the same loss with and without the last axis of 1, and probabilities where the sigmoid is switched off.
# Who meets this: anyone who segments one class with masks without a channel axis, as files hold them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
dice_loss, both [...]: 0.62
dice_loss, both [..., 1]: 0.00
dice_loss, [...] and [..., 1]: 0.00
binary_dice_loss: 0.00
binary_dice_loss of probabilities: ValueError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax
import jax.numpy as jnp
import optax

target = jnp.ones((1, 16, 16)).at[:, :, :3].set(0.0)
logits = jnp.where(target == 1, 20.0, -20.0)
dice, binary = optax.losses.dice_loss, optax.losses.binary_dice_loss
print(f"dice_loss, both [...]: {float(dice(logits, target)[0]):.2f}")
print(f"dice_loss, both [..., 1]: {float(dice(logits[..., None], target[..., None])[0]):.2f}")
print(f"dice_loss, [...] and [..., 1]: {float(dice(logits, target[..., None])[0]):.2f}")
print(f"binary_dice_loss: {float(binary(logits, target)[0]):.2f}")
try:
    verdict = f"{float(binary(jax.nn.sigmoid(logits), target, apply_sigmoid=False)[0]):.2f}"
except ValueError:
    verdict = "ValueError"
print(f"binary_dice_loss of probabilities: {verdict}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
