#!/usr/bin/env bash
# safetensors 0.8.0 with NumPy 2.4.6, Python 3.11, Linux x86-64, 2026-11-29.
#
# Behaviour: `safetensors.numpy.save` of a transposed view writes the view's shape and the memory of the array behind
# it. What is loaded has the right shape and its numbers in other places. There is no error and no warning.
# Expected: the numbers of the view, as `numpy.save` keeps them, or an error, as `safetensors.torch` raises.
# Who meets this: anyone who exports a JAX model for PyTorch. Flax keeps a dense kernel as (in, out), PyTorch as (out,
# in), so every weight is such a view. sftref/model/names.py copies first (`numpy.ascontiguousarray`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
saved  [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
loaded [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
a copy [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import numpy
from safetensors.numpy import load, save

kernel = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
print("saved ", kernel.T.tolist())
print("loaded", load(save({"weight": kernel.T}))["weight"].tolist())
print("a copy", load(save({"weight": numpy.ascontiguousarray(kernel.T)}))["weight"].tolist())
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
