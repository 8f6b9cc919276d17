#!/usr/bin/env bash
# JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `jax.test_util.check_grads` passes the mean of 1000 squares with half of the gradient missing, at its
# default tolerances. It compares one random direction with an absolute tolerance of 0.002, and each entry of the
# gradient of a mean is divided by 1000. The sum of the same squares fails.
# Expected: the factor of a mean does not decide whether a missing gradient is seen.
# Who meets this: anyone who tests the gradient of a loss, which is a mean. Test the sum, or give `atol=0`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat > "$folder/seen" <<'SEEN'
mean: passes
sum: AssertionError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.test_util import check_grads

for name, reduce in (("mean", jnp.mean), ("sum", jnp.sum)):
    def loss(x, reduce=reduce):
        half_frozen = jnp.where(jnp.arange(x.size) < x.size // 2, x, jax.lax.stop_gradient(x))
        return reduce(half_frozen**2)

    try:
        check_grads(loss, (jnp.linspace(-1, 1, 1000),), order=1)
        print(f"{name}: passes")
    except AssertionError:
        print(f"{name}: AssertionError")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
