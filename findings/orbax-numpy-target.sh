#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `StandardCheckpointer.restore(path, target)` compares shapes only where the target's leaf is a JAX array. A
# NumPy leaf of shape (5,) is filled with the three stored numbers, in their shape; the same target as a JAX array is an
# error ("Requested shape: (5,) is not compatible with the stored shape: (3,)").
# Expected: the error for both.
# Who meets this: anyone who restores into host arrays (a table, statistics, a model that is placed on devices later): a
# checkpoint of another configuration is taken for one of this.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 orbax-checkpoint==0.12.8
cat > "$folder/seen" <<'SEEN'
target numpy.zeros(5): restored (3,)
target jax.numpy.zeros(5): ValueError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/saved" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import jax.numpy as jnp
import numpy
import orbax.checkpoint as ocp

checkpointer = ocp.StandardCheckpointer()
checkpointer.save(sys.argv[1], {"bias": numpy.ones(3, numpy.float32)})
checkpointer.wait_until_finished()
for module in (numpy, jnp):
    try:
        restored = f"restored {checkpointer.restore(sys.argv[1], {'bias': module.zeros(5, module.float32)})['bias'].shape}"
    except ValueError:
        restored = "ValueError"
    print(f"target {module.__name__}.zeros(5): {restored}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
