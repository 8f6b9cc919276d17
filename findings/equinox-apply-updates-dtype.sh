#!/usr/bin/env bash
# equinox 0.13.8 and optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `equinox.apply_updates` adds, so bfloat16 parameters with float32 updates become float32 at the first
# update. `optax.apply_updates`, after which it is named, keeps the dtype of the parameters.
# Expected: the same dtypes from both, as they are used in the same place.
# Who meets this: anyone who trains in bfloat16 with an optimizer whose state is float32: the second update compiles
# again and takes twice the memory, and the run is no longer the one that was configured.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 equinox==0.13.8 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
equinox: bfloat16 + float32 -> float32
optax: bfloat16 + float32 -> bfloat16
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import equinox
import jax.numpy as jnp
import optax

parameters, updates = jnp.ones(2, jnp.bfloat16), jnp.full(2, 0.5, jnp.float32)
for library in (equinox, optax):
    print(f"{library.__name__}: bfloat16 + float32 -> {library.apply_updates(parameters, updates).dtype}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
