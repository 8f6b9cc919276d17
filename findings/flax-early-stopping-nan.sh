#!/usr/bin/env bash
# flax 0.12.8, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `flax.training.early_stopping.EarlyStopping` takes NaN for its best metric if it comes first, and no number
# is an improvement on it. The losses NaN, 5, 4, 3, 2 stop a run with a patience of 2 at the fourth, and `has_improved`
# is True for the NaN only. The same losses without the NaN never stop it. A NaN that comes later is no improvement.
# Expected: a number is better than NaN. `best_metric` is documented as the best value, `has_improved` as an improvement
# on it.
# Who meets this: anyone who evaluates before the first step, or on a first batch whose loss is 0 / 0 (no token that
# counts): training ends early, and a checkpoint that is saved with each improvement is that of the first evaluation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2
cat > "$folder/seen" <<'SEEN'
5.0, 4.0, 3.0, 2.0: improved [True, True, True, True], stopped never, best 2.0
nan, 5.0, 4.0, 3.0, 2.0: improved [True, False, False, False, False], stopped at 3.0, best nan
5.0, nan, 4.0, 3.0, 2.0: improved [True, False, True, True, True], stopped never, best 2.0
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
from flax.training.early_stopping import EarlyStopping

nan = float("nan")
for losses in ([5.0, 4.0, 3.0, 2.0], [nan, 5.0, 4.0, 3.0, 2.0], [5.0, nan, 4.0, 3.0, 2.0]):
    stopping, improved, stopped = EarlyStopping(patience=2), [], "never"
    for loss in losses:
        stopping = stopping.update(loss)
        improved.append(stopping.has_improved)
        if stopping.should_stop and stopped == "never":
            stopped = f"at {loss}"
    print(f"{', '.join(map(str, losses))}: improved {improved}, stopped {stopped}, best {stopping.best_metric}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
