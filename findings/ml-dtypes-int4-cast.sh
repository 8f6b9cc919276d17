#!/usr/bin/env bash
# ml_dtypes 0.6.0 with NumPy 2.4.6 and JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: a float that is too large for int4 wraps around in NumPy and saturates in JAX: 9.0 becomes -7 on the host
# and 7 on the device. Both use the same dtype, from ml_dtypes, and neither warns.
# Expected: one result for one dtype.
# Who meets this: anyone who quantizes weights on the host and checks them against a quantization in JAX, or the
# reverse: a number just beyond the range changes its sign in one of them. Clip before the cast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 ml_dtypes==0.6.0 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
floats [7.0, 9.0, -10.0]
NumPy  [7, -7, 6]
JAX    [7, 7, -8]
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import ml_dtypes
import numpy

floats = numpy.array([7, 9, -10], numpy.float32)
print("floats", floats.tolist())
print("NumPy ", floats.astype(ml_dtypes.int4).astype(int).tolist())
print("JAX   ", jax.jit(lambda x: x.astype(ml_dtypes.int4).astype(int))(floats).tolist())
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
