#!/usr/bin/env bash
# JAX 0.10.2 with optax 0.2.8, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jax.nn.one_hot` compares the indices with class numbers in the dtype of the indices. With uint8 and more
# than 256 classes these wrap around: the row of byte 1 among 384 classes has two ones, at 1 and 257. With int8 the
# index -1 becomes class 255. What is built on it follows: `optax.losses.multiclass_hinge_loss` gives another loss than
# for the same label in int32.
# Expected: a single 1 in a row, and zeros for an index outside of the classes, as is documented, whatever the integer
# dtype. Indexing an array is right in the same cases, or raises OverflowError.
# Who meets this: anyone who feeds bytes of text to a model whose vocabulary is 256 bytes and some special tokens, or
# keeps labels in the smallest dtype that holds those which occur.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
cat > "$folder/seen" <<'SEEN'
uint8: ones for index 1 among 384 classes at [1, 257]
int32: ones for index 1 among 384 classes at [1]
int8: ones for index -1 among 384 classes at [255]
int32: ones for index -1 among 384 classes at []
uint8: hinge loss for class 1 of 384: 13.5
int32: hinge loss for class 1 of 384: 39.2
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax
import jax.numpy as jnp
import optax

for index, dtypes in ((1, (jnp.uint8, jnp.int32)), (-1, (jnp.int8, jnp.int32))):
    for dtype in dtypes:
        ones = jax.nn.one_hot(jnp.array(index, dtype), 384).nonzero()[0].tolist()
        print(f"{jnp.dtype(dtype)}: ones for index {index} among 384 classes at {ones}")
for dtype in (jnp.uint8, jnp.int32):
    loss = optax.losses.multiclass_hinge_loss(jnp.arange(384.0) / 10, jnp.array(1, dtype))
    print(f"{jnp.dtype(dtype)}: hinge loss for class 1 of 384: {float(loss):.1f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
