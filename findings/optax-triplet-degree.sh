#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.losses.triplet_margin_loss` raises the differences to the power `norm_degree` without their
# absolute value. With `norm_degree=1` the distance is the sum of signed differences: those of (1, -1) cancel to 0, and
# a distance of -2 lowers the loss. With 3 a negative sum to the power 1/3 is NaN. 2, the default, is right.
# Expected: the p-norm of the difference, 2 for (1, -1) with p = 1 and 1.26 with p = 3; the argument is documented as
# "the norm degree for distance calculation".
# Who meets this: anyone who trains embeddings with the Manhattan distance: the loss is finite, and its minimum pushes
# the positive example away in one direction.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
norm_degree 1: loss 10.00, 8.00, 12.00, by the norm 12.00
norm_degree 2: loss 11.41, 11.41, 11.41, by the norm 11.41
norm_degree 3: loss 10.00, nan, 11.26, by the norm 11.26
norm_degree 4: loss 11.19, 11.19, 11.19, by the norm 11.19
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax.numpy as jnp
import numpy
import optax

anchor = jnp.zeros((3, 2))
positive = jnp.array([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
for degree in (1, 2, 3, 4):
    loss = optax.losses.triplet_margin_loss(anchor, positive, anchor, norm_degree=degree, margin=10.0, eps=0.0)
    norm = numpy.linalg.norm(numpy.asarray(positive), degree, axis=-1)
    assert numpy.allclose(norm, norm[0])
    print(f"norm_degree {degree}: loss " + ", ".join(f"{float(x):.2f}" for x in loss), end="")
    print(f", by the norm {norm[0] + 10:.2f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
