#!/usr/bin/env bash
# datasets 5.2.0, Python 3.11, 2026-11-30.
#
# Behaviour: `Dataset.to_json` writes ten digits after the decimal point, whatever the size of the number. What
# `Dataset.from_json` reads back is 0 for 1e-12, 1.23e-08 for 1.2345678e-08, and null for infinity. A string that looks
# like a day comes back as a timestamp. `to_csv` of the same column keeps the numbers.
# Expected: the numbers that were in the column, as `json.dumps` writes them. The documentation names pandas' `to_json`
# as where further arguments go, and no loss. (`double_precision=15`, the largest that pandas takes, is still not
# exact.)
# Who meets this: anyone who keeps scores in JSON Lines: probabilities of long texts, losses, learning rates, gradients'
# norms. Small ones become 0, and their logarithm minus infinity.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
cat > "$folder/seen" <<'SEEN'
1e-12: JSON 0.0, CSV 1e-12
1.2345678e-08: JSON 1.23e-08, CSV 1.2345678e-08
0.1234567890123: JSON 0.123456789, CSV 0.1234567890123
inf: JSON None, CSV inf
'2026-11-30': JSON datetime.datetime(2026, 11, 30, 0, 0), CSV '2026-11-30'
SEEN
"$folder/venv/bin/python" - "$folder" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import datasets

datasets.disable_progress_bars()
for column in ([1e-12, 1.2345678e-08, 0.1234567890123, float("inf")], ["2026-11-30"]):
    records, path = datasets.Dataset.from_dict({"value": column}), f"{sys.argv[1]}/{type(column[0]).__name__}"
    records.to_json(f"{path}.json")
    records.to_csv(f"{path}.csv")
    from_json = datasets.Dataset.from_json(f"{path}.json", cache_dir=sys.argv[1])["value"]
    from_csv = datasets.Dataset.from_csv(f"{path}.csv", cache_dir=sys.argv[1])["value"]
    for before, json, csv in zip(column, from_json, from_csv):
        print(f"{before!r}: JSON {json!r}, CSV {csv!r}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
