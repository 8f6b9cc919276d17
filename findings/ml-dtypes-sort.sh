#!/usr/bin/env bash
# ml_dtypes 0.6.0 with NumPy 2.4.6, Python 3.11, Linux x86-64, 2026-11-29.
#
# Behaviour: one NaN keeps `numpy.sort` from sorting a bfloat16 array: [3, NaN, 1, 2] comes back as it was, and so do
# the numbers that `numpy.unique` returns. There is no warning.
# Expected: the numbers in order and NaN last, as NumPy documents for its own floating types and gives for float16.
# Who meets this: anyone who takes quantiles or the largest entries of bfloat16 gradients or scores on the host. One NaN
# makes all of them wrong, not only itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
bfloat16 sort [3.0, nan, 1.0, 2.0] unique [3.0, nan, 1.0, 2.0]
float16 sort [1.0, 2.0, 3.0, nan] unique [1.0, 2.0, 3.0, nan]
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import ml_dtypes
import numpy

for dtype in (ml_dtypes.bfloat16, numpy.float16):
    values = numpy.array([3, numpy.nan, 1, 2], dtype)
    numbers = ([float(x) for x in function(values)] for function in (numpy.sort, numpy.unique))
    print(numpy.dtype(dtype).name, "sort", next(numbers), "unique", next(numbers))
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
