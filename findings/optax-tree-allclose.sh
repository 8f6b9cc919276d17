#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `optax.tree_utils.tree_allclose` broadcasts: a leaf of shape (3,) is close to one of shape (1,), and even a
# missing axis passes. So a test of two trees passes where a bias was reduced to one number.
# Expected: False for leaves of different shapes, as trees of parameters are only equal with equal shapes.
# Who meets this: anyone who tests an optimizer or a checkpoint with it. The kit compares shapes and dtypes first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
(3,) and (1,): True
(3,) and (): True
(3,) and (2, 3): True
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
import optax

for shape in ((1,), (), (2, 3)):
    same = optax.tree_utils.tree_allclose({"bias": jnp.ones(3)}, {"bias": jnp.ones(shape)})
    print(f"(3,) and {shape}: {bool(same)}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
