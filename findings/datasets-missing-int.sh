#!/usr/bin/env bash
# datasets 5.2.0 with NumPy 2.4.6 and JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: in the formats "numpy" and "jax" an int64 column is float32 in each batch that has a missing value, and
# integer in the others. Above 2**24 float32 has not every integer: 123456789 becomes 123456792 if a neighbour is
# missing, and 16777217 becomes equal to 16777216. There is no warning. A row read by itself is right.
# Expected: the same number in every batch. float64, which NumPy and pandas use for this, holds it. (The default of
# float32 for float64 columns is known: huggingface/datasets#5517, open. `dtype=None` gives float64 here.)
# Who meets this: anyone who joins by an id that some rows lack, or reads integer labels, positions or times with gaps:
# which rows are changed depends on the batch size and on the order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6 datasets==5.2.0
cat > "$folder/seen" <<'SEEN'
numpy, batch with a missing value: float32 [16777216, 16777216, 123456792]
numpy, batch without: int64 [16777216, 16777217, 123456789]
numpy, rows one by one: [16777216, 16777217, 123456789]
jax, batch with a missing value: float32 [16777216, 16777216, 123456792]
jax, batch without: int32 [16777216, 16777217, 123456789]
jax, rows one by one: [16777216, 16777217, 123456789]
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import datasets

ids = [16777216, 16777217, 123456789, None]
for name in ("numpy", "jax"):
    records = datasets.Dataset.from_dict({"id": ids}).with_format(name)
    for kind, rows in (("with a missing value", records[:4]), ("without", records[:3])):
        print(f"{name}, batch {kind}: {rows['id'].dtype} {[int(x) for x in rows['id'][:3]]}")
    print(f"{name}, rows one by one: {[int(records[i]['id']) for i in range(3)]}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
