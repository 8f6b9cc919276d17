#!/usr/bin/env bash
# equinox 0.13.8 and flax 0.12.8 with JAX 0.10.2, Python 3.11, CPU, 2026-11-29.
#
# Behaviour: `equinox.nn.Embedding` gives the last row for an id beyond its table, and so do gradients go to that row.
# `flax.linen.Embed` gives NaN for the same id. Neither raises.
# Expected: the two agree, or the id is visible in the result; a tokenizer of another vocabulary is a common mistake.
# Who meets this: anyone who ports a model from Flax to Equinox, or loads a tokenizer with more words than the table has
# rows: training goes on, and all new words share one row. sftref refuses such ids when it reads the data.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 equinox==0.13.8 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
equinox: id 2 [4.0, 5.0], id 7 [4.0, 5.0]
flax: id 2 [4.0, 5.0], id 7 [nan, nan]
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" <<'PYTHON'
import equinox
import flax.linen
import jax.numpy as jnp

table = jnp.arange(6.0).reshape(3, 2)
ours = equinox.nn.Embedding(weight=table)
theirs = flax.linen.Embed(3, 2)
for name, read in (
    ("equinox", lambda i: ours(jnp.asarray(i))),
    ("flax", lambda i: theirs.apply({"params": {"embedding": table}}, jnp.asarray(i))),
):
    print(f"{name}: id 2 {read(2).tolist()}, id 7 {read(7).tolist()}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
