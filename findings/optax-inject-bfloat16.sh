#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.inject_hyperparams(optax.adam)` converts every number to the dtype of the parameters. In bfloat16
# the default b2 = 0.999 is 1, so the second moment is multiplied by 1 - b2 = 0 and divided by 1 - b2^t = 0: the first
# update is NaN. `optax.adam` itself, with the same arguments and parameters, works. b2 = 0.99 becomes 0.9883.
# Expected: the same optimizer with and without the wrapper, which is documented to make hyperparameters visible and
# schedulable. `hyperparam_dtype=jnp.float32` helps; it is documented as an override, and the default is not documented.
# google-deepmind/optax#1414, open, asks for another dtype, and does not speak of what follows from this one.
# Who meets this: anyone who wraps an optimizer to log or change its learning rate, and then trains in bfloat16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
adam, bfloat16: first update [-0.0009995, 0.0009995]
inject_hyperparams(adam), bfloat16: b1 0.8984375, b2 1.0, first update [nan, nan]
inject_hyperparams(adam), float32: b1 0.8999999762, b2 0.9990000129, first update [-0.001, 0.001]
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax.numpy as jnp
import optax


def first(optimizer, dtype):
    parameters, gradients = jnp.ones(2, dtype), jnp.array([0.1, -0.2], dtype)
    updates, state = optimizer.update(gradients, optimizer.init(parameters), parameters)
    return [round(float(x), 7) for x in updates], state


print(f"adam, bfloat16: first update {first(optax.adam(1e-3), jnp.bfloat16)[0]}")
for dtype in (jnp.bfloat16, jnp.float32):
    updates, state = first(optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), dtype)
    b1, b2 = (round(float(state.hyperparams[name]), 10) for name in ("b1", "b2"))
    print(f"inject_hyperparams(adam), {jnp.dtype(dtype)}: b1 {b1}, b2 {b2}, first update {updates}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
