#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.MultiSteps` empties its accumulator by multiplying it with 0, and 0 times NaN is NaN. So one
# gradient with NaN stays in it for good. With `apply_if_finite` as its inner optimizer the model stands still for the
# rest of the run, and after `max_consecutive_errors` further updates all weights are NaN. `apply_if_finite` alone, or
# around `MultiSteps`, loses one update.
# Expected: an accumulator of 0 after each update; then the one bad update is skipped.
# Who meets this: anyone who adds gradient accumulation to an optimizer that survives bad batches. Put
# `apply_if_finite` outside, or give `should_skip_update_fn=optax.skip_not_finite`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
apply_if_finite: after step 2, 4, 8, 12, 16: -1.0 -3.0 -7.0 -11.0 -15.0
MultiSteps(apply_if_finite): after step 2, 4, 8, 12, 16: 0.0 0.0 0.0 nan nan
apply_if_finite(MultiSteps): after step 2, 4, 8, 12, 16: 0.0 -1.0 -3.0 -5.0 -7.0
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax.numpy as jnp
import optax


def guard(optimizer):
    return optax.apply_if_finite(optimizer, max_consecutive_errors=5)


for name, optimizer in (
    ("apply_if_finite", guard(optax.sgd(1.0))),
    ("MultiSteps(apply_if_finite)", optax.MultiSteps(guard(optax.sgd(1.0)), 2)),
    ("apply_if_finite(MultiSteps)", guard(optax.MultiSteps(optax.sgd(1.0), 2))),
):
    weight = jnp.zeros(())
    state = optimizer.init(weight)
    weights = []
    for gradient in [1.0, jnp.nan] + [1.0] * 14:
        update, state = optimizer.update(jnp.asarray(gradient), state, weight)
        weight = optax.apply_updates(weight, update)
        weights.append(float(weight))
    print(f"{name}: after step 2, 4, 8, 12, 16:", *(weights[i - 1] for i in (2, 4, 8, 12, 16)))
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
