#!/usr/bin/env bash
# ml_dtypes 0.6.0 with NumPy 2.4.6, Python 3.11, Linux x86-64, 2026-11-29.
#
# Behaviour: `numpy.nan_to_num` returns a bfloat16 array unchanged, NaN and infinity included, without a warning: NumPy
# does not count ml_dtypes' types as inexact numbers (their dtype kind is "V"), and only those have NaN for it. For the
# same reason `numpy.nanmean` and `nansum` do not leave a NaN out.
# Expected: zeros and the largest number, and means without NaN, as for float16 and as `jax.numpy` gives for bfloat16.
# Who meets this: anyone who cleans gradients, scores or losses on the host before they are averaged or written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ml_dtypes==0.6.0 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
bfloat16 kind V: nan_to_num [inf, nan, 1.0], nanmean of NaN and 1 nan
float16 kind f: nan_to_num [65504.0, 0.0, 1.0], nanmean of NaN and 1 1.0
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import ml_dtypes
import numpy

for dtype in map(numpy.dtype, (ml_dtypes.bfloat16, numpy.float16)):
    cleaned = numpy.nan_to_num(numpy.array([numpy.inf, numpy.nan, 1], dtype))
    mean = numpy.nanmean(numpy.array([numpy.nan, 1], dtype))
    numbers = [float(number) for number in cleaned]
    print(f"{dtype.name} kind {dtype.kind}: nan_to_num {numbers}, nanmean of NaN and 1 {float(mean)}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
