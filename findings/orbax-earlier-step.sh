#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `CheckpointManager.save` writes nothing for a step that is not beyond the newest one, and says so only by
# returning False. After a run went to step 5, was restored from step 2 and trained again, steps 3, 4 and 5 of the
# second training are not saved, and `latest_step()` is step 5 of the first.
# Expected: an error or a warning, since a save was asked for; `force=True` raises for a step that exists.
# Who meets this: anyone who goes back to an earlier checkpoint after a bad stretch. The next restart continues from the
# bad one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 orbax-checkpoint==0.12.8
cat > "$folder/seen" <<'SEEN'
first run: saved [True, True, True], newest 5
second run, from step 2: saved [False, False, False], newest 5, of the first run
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/run" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import numpy
import orbax.checkpoint as ocp

options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
manager = ocp.CheckpointManager(sys.argv[1], options=options)


def save(step, run):
    return manager.save(step, args=ocp.args.StandardSave({"run": numpy.full(1, run)}))


print(f"first run: saved {[save(step, 1) for step in (1, 2, 5)]}, newest {manager.latest_step()}")
saved = [save(step, 2) for step in (3, 4, 5)]
newest = manager.latest_step()
run = {1: "first", 2: "second"}[int(manager.restore(newest)["run"][0])]
print(f"second run, from step 2: saved {saved}, newest {newest}, of the {run} run")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
