#!/usr/bin/env bash
# allpairspy 2.5.1, Python 3.11, 2026-11-29.
#
# Behaviour: with a `filter_func` that forbids one pair of values, `AllPairs` also leaves out other pairs that are
# allowed. Three parameters with 2, 2 and 4 values and a fourth with 4, where the second may not be 1 while the third is
# 0: 4 of the 51 allowed pairs are in no row.
# Expected: every pair that the filter allows in some row.
# Who meets this: anyone who has settings that exclude each other. One must compare the rows with the pairs that can
# occur.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet allpairspy==2.5.1
cat > "$folder/seen" <<'SEEN'
rows 14, of them forbidden 0
allowed pairs 51, of them in no row 4
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import itertools

from allpairspy import AllPairs

parameters = [[0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


def allowed(row):  # also called for the first values of a row only
    return not (len(row) > 2 and row[1] == 1 and row[2] == 0)


def pairs(rows):
    return {(i, j, row[i], row[j]) for row in rows for i, j in itertools.combinations(range(4), 2)}


rows = list(AllPairs(parameters, filter_func=allowed))
can_occur = pairs(row for row in itertools.product(*parameters) if allowed(row))
print(f"rows {len(rows)}, of them forbidden {sum(not allowed(row) for row in rows)}")
print(f"allowed pairs {len(can_occur)}, of them in no row {len(can_occur - pairs(rows))}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
