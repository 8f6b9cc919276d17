#!/usr/bin/env bash
# chex 0.1.92 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `chex.assert_numerical_grads` multiplies its absolute tolerance by the number of elements of the first
# argument. For an array of 1000 numbers the default is 10, and a derivative of x^3 that is 5 % too large passes. With 4
# numbers it fails, and `jax.test_util.check_grads`, which chex calls, fails with both.
# Expected: the same verdict for the same relative error, whatever the size.
# Who meets this: anyone who tests the derivative of a layer at its real width.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 chex==0.1.92
cat > "$folder/seen" <<'SEEN'
4 numbers: chex AssertionError, check_grads AssertionError
1000 numbers: chex passes, check_grads AssertionError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import chex
import jax
import jax.numpy as jnp
from jax.test_util import check_grads


@jax.custom_jvp
def cube(x):
    return x**3


@cube.defjvp
def wrong(primals, tangents):
    return cube(primals[0]), 1.05 * 3 * primals[0] ** 2 * tangents[0]


def verdict(check, x):
    try:
        check(cube, (x,), order=1)
    except AssertionError:
        return "AssertionError"
    return "passes"


for size in (4, 1000):
    x = jnp.linspace(0.5, 1.5, size)
    print(f"{size} numbers: chex {verdict(chex.assert_numerical_grads, x)}, check_grads {verdict(check_grads, x)}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
