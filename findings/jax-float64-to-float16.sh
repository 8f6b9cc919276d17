#!/usr/bin/env bash
# JAX 0.10.2 and NumPy 2.4.6, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: JAX converts float64 to float16 by way of float32 and so rounds twice. 1 + 2^-11 + 2^-40, which lies above
# the middle between 1 and the next float16, becomes 1. NumPy rounds once and gives the next float16, 1.000977.
# Expected: the nearest float16, as IEEE 754 asks of a conversion.
# Who meets this: anyone who compares half-precision results with a float64 oracle: the conversion of the oracle itself
# depends on the library, by one unit in the last place.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
NumPy 1.0009765625
JAX 1.0
SEEN
JAX_PLATFORMS=cpu JAX_ENABLE_X64=1 "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import numpy

x = numpy.float64(1 + 2**-11 + 2**-40)
print("NumPy", float(x.astype(numpy.float16)))
print("JAX", float(jax.jit(lambda v: v.astype(numpy.float16))(x)))
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
