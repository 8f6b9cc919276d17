#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: a `CheckpointManager` that keeps the best checkpoint by a metric takes NaN for an improvement, and then
# anything for an improvement on NaN. With accuracies 0.5, NaN, 0.4 and `max_to_keep=1` the checkpoint with 0.5 is
# deleted, and the one with 0.4 is the "best" one that is left.
# Expected: NaN is worse than every number, or an error.
# Who meets this: anyone who keeps the best model of a run in which one evaluation is NaN. The best model is gone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 orbax-checkpoint==0.12.8
cat > "$folder/seen" <<'SEEN'
step 0, accuracy 0.5: kept [0], best 0
step 1, accuracy nan: kept [1], best 1
step 2, accuracy 0.4: kept [2], best 2
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/run" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import numpy
import orbax.checkpoint as ocp

options = ocp.CheckpointManagerOptions(
    max_to_keep=1, best_fn=lambda metrics: metrics["accuracy"], best_mode="max", enable_async_checkpointing=False
)
manager = ocp.CheckpointManager(sys.argv[1], options=options)
for step, accuracy in enumerate((0.5, numpy.nan, 0.4)):
    state = ocp.args.StandardSave({"weight": numpy.full(2, accuracy)})
    manager.save(step, args=state, metrics={"accuracy": accuracy})
    print(f"step {step}, accuracy {accuracy}: kept {manager.all_steps()}, best {manager.best_step()}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
