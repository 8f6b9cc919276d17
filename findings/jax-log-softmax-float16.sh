#!/usr/bin/env bash
# JAX 0.10.2 with optax 0.2.8 and NumPy 2.4.6, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jax.nn.log_softmax`, `softmax` and `logsumexp` round the sum of the exponentials to float16 before the
# logarithm or the division. A fresh model has logits near 0, so that sum is about the size of the vocabulary. With
# 128256 tokens (Llama 3) or 151936 (Qwen) it is beyond float16: every log-probability is -inf, every probability 0, and
# optax's loss infinite, though float16 has room for all three. With 50257 tokens (GPT-2) they are right.
# Expected: log(128256) = 11.76, to float16's precision. The documentation speaks of +inf in the input only.
# jax-ml/jax#40474, open, computes log_softmax in float32 for the sake of its gradient, for other inputs.
# Who meets this: anyone who trains or evaluates in float16 with a modern vocabulary. A trained model's softmax is
# peaked, so it shows in the first steps of a new one. Convert the logits to float32 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8 numpy==2.4.6
cat > "$folder/seen" <<'SEEN'
50257 tokens: log_softmax -10.83, softmax 2.0e-05, loss 10.83, should be 10.82
128256 tokens: log_softmax -inf, softmax 0.0e+00, loss inf, should be 11.76
151936 tokens: log_softmax -inf, softmax 0.0e+00, loss inf, should be 11.93
151936 tokens, float32: loss 11.93
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax
import jax.numpy as jnp
import numpy
import optax

for size in (50257, 128256, 151936):
    logits = jnp.zeros(size, jnp.float16)
    log_p, p = float(jax.nn.log_softmax(logits)[0]), float(jax.nn.softmax(logits)[0])
    loss = float(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array(0)))
    print(
        f"{size} tokens: log_softmax {log_p:.2f}, softmax {p:.1e}, loss {loss:.2f}, should be {numpy.log(size):.2f}"
    )
loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.array(0))
print(f"{size} tokens, float32: loss {float(loss):.2f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
