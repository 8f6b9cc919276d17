#!/usr/bin/env bash
# flax 0.12.8, orbax-checkpoint 0.12.8 and safetensors 0.8.0 with JAX 0.10.2, Python 3.11, Linux x86-64, 2026-11-30.
#
# Behaviour: `flax.serialization.to_bytes` writes the memory of a NumPy array and the name of its dtype, which has no
# byte order. A big-endian array comes back as other numbers, without an error: 1, 2, 3 become about 4.6e-41, 9.0e-44,
# 2.3e-41.
# Expected: the numbers that were saved, as safetensors and Orbax restore them, or an error; `jax.numpy.asarray`
# raises TypeError for such an array.
# Who meets this: anyone who saves arrays as they were read from a format that is big-endian (NetCDF 3, FITS, IDX,
# Java's streams) together with a model: statistics for normalization, embeddings, labels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8 orbax-checkpoint==0.12.8 safetensors==0.8.0
cat > "$folder/seen" <<'SEEN'
flax        [4.600602988224807e-41, 8.96831017167883e-44, 2.304855714121459e-41]
safetensors [1.0, 2.0, 3.0]
orbax       [1.0, 2.0, 3.0]
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/saved" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import numpy
import orbax.checkpoint
from flax import serialization
from safetensors.numpy import load, save

saved = {"bias": numpy.array([1.0, 2.0, 3.0], ">f4")}
print("flax       ", serialization.from_bytes(saved, serialization.to_bytes(saved))["bias"].tolist())
print("safetensors", load(save(saved))["bias"].tolist())
checkpointer = orbax.checkpoint.StandardCheckpointer()
checkpointer.save(sys.argv[1], saved)
checkpointer.wait_until_finished()
print("orbax      ", checkpointer.restore(sys.argv[1])["bias"].tolist())
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
