#!/usr/bin/env bash
# covertable 3.2.0 and 2.1.0, Python 3.11, 2026-11-29.
#
# Behaviour: version 3 replaced the argument `pre_filter` of version 2 by `constraints`, and its `make` accepts any
# keyword. So the call that version 2 obeys returns forbidden rows under version 3, without an error or a warning. A
# constraint on a field that does not exist is ignored too.
# Expected: TypeError for an unknown keyword, as Python raises, or a deprecation.
# Who meets this: anyone who upgrades a test plan: it then contains combinations that cannot run. Compare the rows with
# the rule.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen" <<'SEEN'
covertable 2.1.0: 3 rows, of them forbidden 0
covertable 3.2.0: 4 rows, of them forbidden 1
SEEN
for version in 2.1.0 3.2.0; do
  python3.11 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "covertable==$version"
  "$folder/$version/bin/python" - "$version" >> "$folder/now" <<'PYTHON'
import sys

from covertable import make


def allowed(row):
    return not (row.get("os") == "ios" and row.get("phone") == "pixel")


rows = make({"os": ["ios", "android"], "phone": ["iphone", "pixel"]}, pre_filter=allowed)
print(f"covertable {sys.argv[1]}: {len(rows)} rows, of them forbidden {sum(not allowed(row) for row in rows)}")
PYTHON
done
diff "$folder/seen" "$folder/now" && echo "as recorded"
