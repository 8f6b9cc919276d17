#!/usr/bin/env bash
# safetensors 0.8.0 with JAX 0.10.2 and NumPy 2.4.6, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `safetensors.flax.save` writes bfloat16 and float8 arrays, and `safetensors.flax.load` cannot read what it
# wrote: KeyError 'BF16', KeyError 'F8_E4M3'. `load_file` of the same bytes reads bfloat16, and raises AttributeError
# for float8 ("module 'numpy' has no attribute 'float8_e4m3fn'").
# Expected: each function reads what its counterpart wrote, and both agree; or `save` refuses a dtype that cannot be
# read. safetensors/safetensors#382, open since 2023, is about the file; #598 was closed.
# Who meets this: anyone who keeps checkpoints in an object store as bytes, in bfloat16, or quantized to float8. The
# save works, and the restart does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6 safetensors==0.8.0
cat > "$folder/seen" <<'SEEN'
float32: load reads it, load_file reads it
bfloat16: load KeyError, load_file reads it
float8_e4m3fn: load KeyError, load_file AttributeError
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import sys

import jax.numpy as jnp
import safetensors.flax


def outcome(function, *arguments):
    try:
        function(*arguments)
    except (KeyError, AttributeError) as error:
        return type(error).__name__
    return "reads it"


for dtype in (jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn):
    tensors, path = {"weight": jnp.ones(2, dtype)}, f"{sys.argv[1]}/{jnp.dtype(dtype)}"
    data = safetensors.flax.save(tensors)
    safetensors.flax.save_file(tensors, path)
    from_bytes, from_file = outcome(safetensors.flax.load, data), outcome(safetensors.flax.load_file, path)
    print(f"{jnp.dtype(dtype)}: load {from_bytes}, load_file {from_file}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
