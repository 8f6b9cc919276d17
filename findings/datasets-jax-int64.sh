#!/usr/bin/env bash
# datasets 5.2.0 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: a data set in the format "jax" turns an int64 column into int32 without a check or a warning: 2**40 becomes
# 0 and 2**40 + 7 becomes 7. The format "numpy" keeps them. (A float64 column becomes float32 in both, and NumPy warns.)
# Expected: an error, or at least a warning, for a number that does not fit; `jax.numpy.asarray(2**40)` raises
# OverflowError.
# Who meets this: anyone who keeps ids or hashes of examples in a column. Different ids become equal ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 datasets==5.2.0
cat > "$folder/seen" <<'SEEN'
jax: int32 [0, 7]
numpy: int64 [1099511627776, 1099511627783]
jax.numpy.asarray: OverflowError
SEEN
JAX_PLATFORMS=cpu HF_HOME="$folder" "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
from datasets import Dataset

data = Dataset.from_dict({"id": [2**40, 2**40 + 7]})
for kind in ("jax", "numpy"):
    ids = data.with_format(kind)[:]["id"]
    print(f"{kind}: {ids.dtype} {ids.tolist()}")
try:
    print(f"jax.numpy.asarray: {jnp.asarray(2**40)}")
except OverflowError:
    print("jax.numpy.asarray: OverflowError")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
