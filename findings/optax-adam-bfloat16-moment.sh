#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.adam` keeps its second moment in the dtype of the parameters. In bfloat16 it never gets smaller:
# 0.999 of a number rounds to the number itself. After one gradient of 100 and 10000 of 0.01 it is still 10, and the
# update is 3.1e-6; in float32 it is 0.00055 and the update 4.3e-4, more than a hundred times as large.
# Expected: a moment in float32, or an argument for its dtype; `mu_dtype` is for the first moment only.
# Who meets this: anyone who trains bfloat16 parameters with Adam. Each parameter that once had a large gradient, as
# at the start of fine-tuning, hardly moves any more. sftref keeps parameters in float32 under --precision bfloat16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
float32: second moment 0.000552, update -4.3e-04
bfloat16: second moment 10.000000, update -3.1e-06
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import jax.numpy as jnp
import optax

optimizer = optax.adam(1e-3)
update = jax.jit(optimizer.update)
for dtype in (jnp.float32, jnp.bfloat16):
    state = optimizer.init(jnp.zeros((), dtype))
    _, state = update(jnp.asarray(100.0, dtype), state)
    for _ in range(10000):
        step, state = update(jnp.asarray(0.01, dtype), state)
    print(f"{jnp.dtype(dtype).name}: second moment {float(state[0].nu):.6f}, update {float(step):.1e}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
