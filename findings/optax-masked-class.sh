#!/usr/bin/env bash
# optax 0.2.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `optax.softmax_cross_entropy_with_integer_labels` with a mask `where` over classes leaves a masked class
# out of the normalizer, and still takes its logit if it is the label. The loss is then negative and has no lower bound:
# -0.69 for a logit of 2, -18.69 for one of 20. `optax.softmax_cross_entropy` of the same mask gives 0 in both cases.
# Expected: the two losses agree, as they are documented to be the same function of other labels. A cross-entropy is
# never negative; that of an impossible class is infinite.
# Who meets this: anyone who masks classes per example (tasks with different labels, choices that do not apply,
# candidates that are padding), with a wrong mask or label in one row: the loss is best where the mistake is largest,
# and lowers the mean of all others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
logit 2.0, class allowed: integer 0.41, one-hot 0.41
logit 2.0, class masked: integer -0.69, one-hot 0.00
logit 20.0, class allowed: integer 0.00, one-hot 0.00
logit 20.0, class masked: integer -18.69, one-hot 0.00
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax
import jax.numpy as jnp
import optax

label = jnp.array([1])
for logit in (2.0, 20.0):
    for name, allowed in (("allowed", True), ("masked", False)):
        logits, where = jnp.array([[1.0, logit, 0.0]]), jnp.array([[True, allowed, True]])
        integer = float(optax.softmax_cross_entropy_with_integer_labels(logits, label, where=where)[0])
        one_hot = float(optax.softmax_cross_entropy(logits, jax.nn.one_hot(label, 3), where=where)[0])
        print(f"logit {logit}, class {name}: integer {integer:.2f}, one-hot {abs(one_hot):.2f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
