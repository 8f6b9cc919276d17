#!/usr/bin/env bash
# numcodecs 0.16.6 with NumPy 2.4.6, Python 3.11, 2026-11-30.
#
# Behaviour: `numcodecs.BitRound` rounds the bits of a NaN like those of a number. If its last bits are ones, the carry
# runs into the sign: the NaN 0x7fffffff becomes -0.0, with any number of kept bits, and 0xffffffff becomes 0.0. NumPy's
# own NaN, 0x7fc00000, survives with `keepbits` of 1 or more, and becomes -0.0 with 0.
# Expected: NaN stays NaN. The documentation promises fewer bits of the mantissa, and nothing about sign and exponent.
# CUDA's programming guide names 0x7fffffff as the NaN that float32 arithmetic gives on its GPUs.
# Who meets this: anyone who stores activations, gradients or fields computed on such a GPU in Zarr with this filter. A
# run that diverged reads back as zeros, and a mean without NaN counts them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numcodecs==0.16.6 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
keepbits 0: 0x7fffffff -0.0, 0xffffffff 0.0, 0x7fc00000 -0.0
keepbits 7: 0x7fffffff -0.0, 0xffffffff 0.0, 0x7fc00000 nan
keepbits 22: 0x7fffffff -0.0, 0xffffffff 0.0, 0x7fc00000 nan
keepbits 23: 0x7fffffff nan, 0xffffffff nan, 0x7fc00000 nan
SEEN
"$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import numcodecs
import numpy

patterns = numpy.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], numpy.uint32)
values = patterns.view(numpy.float32)
assert numpy.isnan(values).all()
for keepbits in (0, 7, 22, 23):
    codec = numcodecs.BitRound(keepbits)
    back = codec.decode(codec.encode(values))
    print(f"keepbits {keepbits}: " + ", ".join(f"{bits:#x} {value}" for bits, value in zip(patterns, back)))
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
