#!/usr/bin/env bash
# ml_dtypes 0.6.0 with NumPy 2.4.6, Python 3.11, Linux x86-64, 2026-11-29.
#
# Behaviour: `numpy.nan_to_num` returns a bfloat16 array unchanged, NaN and infinity included, without a warning: NumPy
# does not count ml_dtypes' types as inexact numbers (their dtype kind is "V"), and only those have NaN for it.
# Expected: zeros and the largest number, as for float16 and as `jax.numpy.nan_to_num` gives for bfloat16.
# Who meets it: whoever cleans gradients, scores or losses on the host before they are averaged or written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
bfloat16 kind V: [inf, nan, 1.0]
float16 kind f: [65504.0, 0.0, 1.0]
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import ml_dtypes
import numpy

for dtype in map(numpy.dtype, (ml_dtypes.bfloat16, numpy.float16)):
    cleaned = numpy.nan_to_num(numpy.array([numpy.inf, numpy.nan, 1], dtype))
    print(f"{dtype.name} kind {dtype.kind}: {[float(number) for number in cleaned]}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
