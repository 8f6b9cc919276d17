#!/usr/bin/env bash
# flax 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `flax.nnx.update(model, values)` checks neither names nor shapes. A kernel of shape (2, 3) becomes one of
# (5, 5), and a misspelt name becomes a new attribute, while the parameter that was meant keeps its old value.
# `nnx.merge` with a missing leaf raises.
# Expected: an error that names the leaf, as `flax.linen` gives at the next call for a wrong shape.
# Who meets this: anyone who loads converted weights into a model: a mistake in the table of names leaves a layer at its
# random start, and nothing says so. Compare the paths and shapes of both states first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
kernel (2, 3) updated with (5, 5): now (5, 5)
update of 'kernell': kernel unchanged True, new attribute True
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
from flax import nnx

layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
nnx.update(layer, {"kernel": nnx.Param(jnp.ones((5, 5)))})
print(f"kernel (2, 3) updated with (5, 5): now {layer.kernel.shape}")
layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
before = layer.kernel[...]
nnx.update(layer, {"kernell": nnx.Param(jnp.ones((2, 3)))})
same = bool((layer.kernel[...] == before).all())
print(f"update of 'kernell': kernel unchanged {same}, new attribute {hasattr(layer, 'kernell')}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
