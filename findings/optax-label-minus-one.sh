#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `optax.softmax_cross_entropy_with_integer_labels` takes the label -1 for the last class, without an error:
# a negative label indexes from the end. A label beyond the last class gives a loss of NaN, but a finite gradient (the
# softmax, as if the row had no label), so that training goes on with it.
# Expected: NaN or an error for -1 too, or that the row counts in nothing. Who meets it: -1 is the label of every row of
# GLUE's test splits, and of padding in many pipelines. Evaluated by mistake, such rows look like rows of the last
# class. sftref refuses labels that are not a class when it reads a file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
label 2: loss 3.170, gradient [0.844, 0.114, -0.958]
label -1: loss 3.170, gradient [0.844, 0.114, -0.958]
label 3: loss nan, gradient [0.844, 0.114, 0.042]
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import jax
import jax.numpy as jnp
import optax

for label in (2, -1, 3):
    def loss(logits, label=label):
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(label))

    value, gradient = jax.value_and_grad(loss)(jnp.array([2.0, 0.0, -1.0]))
    print(f"label {label}: loss {value:.3f}, gradient {[round(float(g), 3) for g in gradient]}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
