#!/usr/bin/env bash
# dm-pix 0.4.5 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `dm_pix.simse(a, b, ignore_nans=True)` finds the scale of b as sum(a b) / sum(b b). A pixel that is NaN in
# `a` only is left out above and counts below, so the scale is too small. Two images that
# agree in every pixel that both have get an error of 0.08 if half of the rows are NaN, and not 0. With the arguments
# exchanged it is 0.
# Expected: "If True, will ignore NaNs in the inputs": the result for the pixels that both images have.
# Who meets this: anyone who compares a measured image with gaps (satellite, depth, a masked region) to a complete
# prediction: the better the prediction, the more the error shows the size of the gaps instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 dm-pix==0.4.5
cat > "$folder/seen" <<'SEEN'
no gap: simse(a, b) 0.000, simse(b, a) 0.000, mse 0.000, pixels of both 0.000
4 of 8 rows NaN in a: simse(a, b) 0.076, simse(b, a) 0.000, mse 0.000, pixels of both 0.000
6 of 8 rows NaN in a: simse(a, b) 0.235, simse(b, a) 0.000, mse 0.000, pixels of both 0.000
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import dm_pix
import jax.numpy as jnp

b = jnp.linspace(0.5, 0.75, 8 * 8 * 3).reshape(8, 8, 3)
for name, rows in (("no gap", 0), ("4 of 8 rows NaN in a", 4), ("6 of 8 rows NaN in a", 6)):
    a = b.at[:rows].set(jnp.nan)
    errors = [dm_pix.simse(*pair, ignore_nans=True) for pair in ((a, b), (b, a))]
    print(f"{name}: simse(a, b) {float(errors[0]):.3f}, simse(b, a) {float(errors[1]):.3f}, ", end="")
    print(f"mse {float(dm_pix.mse(a, b, ignore_nans=True)):.3f}, ", end="")
    print(f"pixels of both {float(dm_pix.simse(a[rows:], b[rows:])):.3f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
