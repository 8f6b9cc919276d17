#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.contrib.reduce_on_plateau` compares the value with (1 - rtol) times the best one. For a negative
# best value that bound is worse than the best: a constant value of -1 is an improvement in every step, and so is a
# value that gets worse by less than rtol of it. Both keep the full learning rate for good, and the worse value becomes
# the best. With `rtol=0.0` and a positive `atol` the plateau is seen.
# Expected: a plateau after `patience` steps without improvement, whatever the sign. google-deepmind/optax#1767, open,
# proposes that.
# Who meets this: anyone who monitors a log-likelihood of densities, an ELBO, or a score with its sign turned, since the
# function only minimizes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
constant 1: scale 1e-05, best 1.000
constant -1: scale 1, best -1.000
from 100 upward: scale 1e-05, best 100.000
from -100 upward: scale 1, best -99.755
from -100 upward, rtol 0: scale 1e-05, best -100.000
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax.numpy as jnp
import optax

gradient = jnp.ones(())
for name, first, step, options in (
    ("constant 1", 1.0, 0.0, {}),
    ("constant -1", -1.0, 0.0, {}),
    ("from 100 upward", 100.0, 0.005, {}),
    ("from -100 upward", -100.0, 0.005, {}),
    ("from -100 upward, rtol 0", -100.0, 0.005, {"rtol": 0.0, "atol": 1e-4}),
):
    plateau = optax.contrib.reduce_on_plateau(factor=0.1, patience=9, **options)
    state = plateau.init(gradient)
    for i in range(50):
        _, state = plateau.update(gradient, state, value=jnp.float32(first + step * i))
    print(f"{name}: scale {float(state.scale):.0e}".replace("1e+00", "1") + f", best {float(state.best_value):.3f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
