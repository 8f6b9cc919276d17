#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `StandardCheckpointer.restore(path, target)` converts what is stored to the target's dtype without a check:
# the imaginary part of a complex array is dropped, 2**40 + 7 becomes 7 in int32, 300 becomes 44 in uint8, and a Python
# float 1.5 becomes 1 where the target has an int. There is no warning. Another shape is an error.
# Expected: an error, or a warning, for a number that the target's dtype cannot hold. The documentation says that a
# value is restored as the type of the target's, and not what happens to such numbers.
# Who meets this: anyone who builds the target anew from a configuration: counters of examples or tokens beyond 2**31
# when 64-bit types are off, the complex weights of a state-space or Fourier layer, a setting that was 0 when the target
# was made. sftref/train/checkpoint.py compares names, shapes and dtypes first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 orbax-checkpoint==0.12.8
cat > "$folder/seen" <<'SEEN'
complex64 1+2j to float32: 1.0
int64 1099511627783 to int32: 7
float32 300.0 to uint8: 44
float 1.5 to int: 1
other shape: ValueError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import jax.numpy as jnp
import numpy
import orbax.checkpoint as ocp

cases = (
    ("complex64 1+2j to float32", jnp.array([1 + 2j]), jnp.zeros(1)),
    ("int64 1099511627783 to int32", numpy.array([2**40 + 7]), jnp.zeros(1, jnp.int32)),
    ("float32 300.0 to uint8", jnp.array([300.0]), jnp.zeros(1, jnp.uint8)),
    ("float 1.5 to int", 1.5, 0),
    ("other shape", jnp.zeros(1), jnp.zeros(2)),
)
checkpointer = ocp.StandardCheckpointer()
for i, (name, stored, target) in enumerate(cases):
    path = f"{sys.argv[1]}/{i}"
    checkpointer.save(path, {"value": stored})
    checkpointer.wait_until_finished()
    try:
        value = checkpointer.restore(path, {"value": target})["value"]
        print(f"{name}: {numpy.asarray(value).ravel()[0]}")
    except ValueError as error:
        print(f"{name}: {type(error).__name__}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
