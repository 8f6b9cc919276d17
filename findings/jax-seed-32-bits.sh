#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: without 64-bit types `jax.random.key` keeps the low 32 bits of a seed: 2**32 gives the key of 0, and -1
# that of 2**32 - 1, without an error or a warning. `fold_in` raises OverflowError for the same number.
# Expected: an error as from `fold_in`, or the 64 bits that a key has room for and that it keeps under jax_enable_x64.
# Who meets this: anyone who seeds with a hash, a time in nanoseconds or a job's number times a large constant: runs
# that should differ are the same. sftref builds the key from both halves of the seed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
seed 0: [0, 0]
seed 4294967296: [0, 0]
with 64-bit types: [1, 0]
fold_in: OverflowError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax

for seed in (0, 2**32):
    print(f"seed {seed}: {jax.random.key_data(jax.random.key(seed)).tolist()}")
with jax.enable_x64(True):
    print(f"with 64-bit types: {jax.random.key_data(jax.random.key(2**32)).tolist()}")
try:
    print("fold_in:", jax.random.fold_in(jax.random.key(0), 2**32))
except OverflowError:
    print("fold_in: OverflowError")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
