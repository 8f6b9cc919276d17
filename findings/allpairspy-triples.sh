#!/usr/bin/env bash
# allpairspy 2.5.1, Python 3.11, 2026-11-29.
#
# Behaviour: `AllPairs(parameters, n=3)` leaves out combinations of three values. Of the 32 of four switches it has 18,
# in five rows; of the 108 of four parameters with three values each it has 40. With the default, n=2, nothing is
# missing.
# Expected: every combination of n values in at least one row, which is what n is documented to ask for.
# Who meets this: anyone who takes the package for the strength of a test plan. The rows look like a plan, and nothing
# says what they do not cover.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet allpairspy==2.5.1
cat > "$folder/seen" <<'SEEN'
4 parameters with 2 values: pairs 24 of 24, triples 18 of 32
4 parameters with 3 values: pairs 54 of 54, triples 40 of 108
6 parameters with 2 values: pairs 60 of 60, triples 112 of 160
SEEN
"$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import itertools

from allpairspy import AllPairs


def covered(count, values, n):
    rows = [tuple(row) for row in AllPairs([list(range(values))] * count, n=n)]
    places = list(itertools.combinations(range(count), n))
    return len({(p, tuple(row[i] for i in p)) for row in rows for p in places}), len(places) * values**n


for count, values in ((4, 2), (4, 3), (6, 2)):
    pairs, triples = ("{} of {}".format(*covered(count, values, n)) for n in (2, 3))
    print(f"{count} parameters with {values} values: pairs {pairs}, triples {triples}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
