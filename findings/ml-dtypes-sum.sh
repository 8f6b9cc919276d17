#!/usr/bin/env bash
# ml_dtypes 0.6.0 with NumPy 2.4.6, Python 3.11, Linux x86-64, 2026-11-29.
#
# Behaviour: NumPy adds up ml_dtypes' bfloat16 in bfloat16, one after the other. A sum of ones stops at 256, so the sum
# of 1000 ones is 256, and their mean 0.256. There is no warning.
# Expected: what NumPy does for its own float16, whose sums and means are right.
# Who meets this: anyone who reads bfloat16 parameters, gradients or losses of a JAX program back as NumPy arrays and
# summarizes them on the host. Convert to float32 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
bfloat16: sum of 1000 ones 256, mean 0.256
float16: sum of 1000 ones 1000, mean 1.000
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import ml_dtypes
import numpy

for dtype in (ml_dtypes.bfloat16, numpy.float16):
    ones = numpy.ones(1000, dtype)
    print(f"{numpy.dtype(dtype).name}: sum of 1000 ones {ones.sum():.0f}, mean {ones.mean():.3f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
