#!/usr/bin/env bash
# distrax 0.1.9 with tfp-nightly 0.26.0.dev20261027 and JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: the entropy of `distrax.Gumbel` and `VonMises` has the shape of the scale or the concentration, not that of
# the batch. For 32 locations and one scale it is one number, so its sum is a 32nd of the right one. `Independent` over
# 4 rows of 8 with a scale of shape (8,) has one entropy and not 4. `Normal` and `Logistic` give the batch's shape.
# Expected: `batch_shape`, as from the other distributions; `Independent` sums the entropy over axes that it then lacks.
# The mean has that shape.
# Who meets this: anyone who adds an entropy bonus to a loss: with a shared scale it is too small by the size of the
# batch, so that its weight changes with the batch size or the number of devices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 distrax==0.1.9 tfp-nightly==0.26.0.dev20261027
cat > "$folder/seen" <<'SEEN'
Normal: batch (32,), mean (32,), entropy (32,), sum 45.41
Logistic: batch (32,), mean (32,), entropy (32,), sum 64.00
Gumbel: batch (32,), mean (32,), entropy (), sum 1.58
VonMises: batch (32,), mean (32,), entropy (), sum 1.63
Independent of Gumbel: batch (4,), entropy ()
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import distrax
import jax.numpy as jnp

for kind in (distrax.Normal, distrax.Logistic, distrax.Gumbel, distrax.VonMises):
    one = kind(jnp.zeros(32), jnp.array(1.0))
    entropy = one.entropy()
    shapes = f"batch {one.batch_shape}, mean {one.mean().shape}, entropy {entropy.shape}"
    print(f"{kind.__name__}: {shapes}, sum {float(entropy.sum()):.2f}")
rows = distrax.Independent(distrax.Gumbel(jnp.zeros((4, 8)), jnp.ones(8)), 1)
print(f"Independent of Gumbel: batch {rows.batch_shape}, entropy {rows.entropy().shape}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
