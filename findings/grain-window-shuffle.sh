#!/usr/bin/env bash
# grain 0.2.18, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `grain.experimental.WindowShuffleMapDataset` shuffles the last window as if it were whole. Where the window
# does not divide the length, indices beyond the end wrap around: of 0 to 9 in windows of 4 the records 8 and 9 never
# come, and 0 and 1 come twice. The length is still 10.
# Expected: a permutation, as `shuffle` gives.
# Who meets this: anyone who shuffles in windows for locality on disk, without a length that the window divides.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grain==0.2.18
cat > "$folder/seen" <<'SEEN'
10 records in windows of 4: twice [0, 1], never [8, 9]
10 records in windows of 5: twice [], never []
7 records in windows of 5: twice [2], never [6]
SEEN
"$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import grain

for length, window in ((10, 4), (10, 5), (7, 5)):
    records = grain.experimental.WindowShuffleMapDataset(grain.MapDataset.range(length), window_size=window, seed=1)
    came = [int(record) for record in records]
    twice = [record for record in range(length) if came.count(record) == 2]
    never = [record for record in range(length) if record not in came]
    print(f"{length} records in windows of {window}: twice {twice}, never {never}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
