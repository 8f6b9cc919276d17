#!/usr/bin/env bash
# chex 0.1.92 with JAX 0.10.2, Python 3.11, 2026-11-29.
#
# Behaviour: `chex.assert_scalar_positive` and `assert_scalar_non_negative` pass for NaN, since each looks for a number
# that is too small, and no comparison with NaN is true. `assert_scalar_in` fails for it.
# Expected: NaN is not positive.
# Who meets this: anyone who guards a loss, a norm or a learning rate with them: a diverged run passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 chex==0.1.92
cat > "$folder/seen" <<'SEEN'
assert_scalar_positive: NaN passes, -1 AssertionError
assert_scalar_non_negative: NaN passes, -1 AssertionError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import chex


def verdict(check, number):
    try:
        check(number)
    except AssertionError:
        return "AssertionError"
    return "passes"


for check in (chex.assert_scalar_positive, chex.assert_scalar_non_negative):
    print(f"{check.__name__}: NaN {verdict(check, float('nan'))}, -1 {verdict(check, -1.0)}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
