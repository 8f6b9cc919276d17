#!/usr/bin/env bash
# flax 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `flax.serialization.from_bytes(target, data)` checks the names of a tree and neither shapes nor dtypes. A
# target of shape (2, 3), float32, comes back as (3, 2), float64, if that was saved; a name that only the file has is
# left out without a word. A missing name is an error.
# Expected: an error that names the leaf, or a conversion; `target` is documented as what the bytes are restored into.
# Who meets this: anyone who restores a checkpoint of another configuration: it fails later, or, for a bias or an
# embedding table of another length, not at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
target (2, 3) float32, restored (3, 2) float64
names in the file ['bias', 'kernel'], restored ['kernel']
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import numpy
from flax import serialization

target = {"kernel": numpy.zeros((2, 3), numpy.float32)}
saved = {"kernel": numpy.ones((3, 2)), "bias": numpy.ones(3)}
restored = serialization.from_bytes(target, serialization.to_bytes(saved))
kernel = restored["kernel"]
print(f"target (2, 3) float32, restored {kernel.shape} {kernel.dtype}")
print(f"names in the file {sorted(saved)}, restored {sorted(restored)}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
