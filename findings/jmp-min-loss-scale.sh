#!/usr/bin/env bash
# jmp 0.0.4 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jmp.DynamicLossScale` leaves its field `min_loss_scale` out of the pytree, so that it is 1 again after
# `jax.jit`, `jax.tree.map` or a flattened checkpoint. A floor of 1024 holds outside of jit; in a jitted training step
# six bad steps take the scale from 4096 to 64. A floor below 1 is lost as well: the scale stops at 1, and a model that
# needs less skips every step from there on.
# Expected: the field is kept, as `period` and `factor` are. google-deepmind/jmp#18 asked for the field because 1 was
# too large for some models, and #44, which keeps it in the pytree, was closed.
# Who meets this: anyone who trains in float16 with the documented loop inside a jitted step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jmp==0.0.4
cat > "$folder/seen" <<'SEEN'
floor 1024.0: after six bad steps 1024.0, with jit 64.0, floor after jit 1.0
floor 0.25: after six bad steps 0.25, with jit 1.0, floor after jit 1.0
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax
import jax.numpy as jnp
import jmp


def step(scale):
    return scale.adjust(jnp.array(False))


for start, floor in ((4096.0, 1024.0), (4.0, 0.25)):
    plain = jitted = jmp.DynamicLossScale(jnp.float32(start), min_loss_scale=jnp.float32(floor))
    for _ in range(6):
        plain, jitted = step(plain), jax.jit(step)(jitted)
    print(f"floor {floor}: after six bad steps {float(plain.loss_scale)}, ", end="")
    print(f"with jit {float(jitted.loss_scale)}, floor after jit {float(jitted.min_loss_scale)}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
