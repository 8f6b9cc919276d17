#!/usr/bin/env bash
# jraph 0.0.6.dev0 with JAX 0.10.2 and NumPy 2.4.6, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `jraph.unbatch_np` subtracts the offsets of the nodes in place, in views of the batch's own `senders` and
# `receivers`. The first call is right and leaves a batch in which all edges join nodes of the first graph. A second
# call gives negative nodes. `jraph.unbatch` of JAX arrays leaves its argument alone.
# Expected: the batch is what it was; nothing says that it is used up, and each call gives the same graphs.
# Who meets this: anyone who looks at the graphs of a NumPy batch (a plot, a log, a metric per graph) and then trains on
# it: the messages of all graphs go to the first one, and shapes and indices stay valid.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6 jraph==0.0.6.dev0
cat > "$folder/seen" <<'SEEN'
unbatch_np, batch before: 0 1 3 4 6 7
unbatch_np, first call: 0 1, 0 1, 0 1
unbatch_np, batch after: 0 1 0 1 0 1
unbatch_np, second call: 0 1, -3 -2, -6 -5
unbatch, batch before: 0 1 3 4 6 7
unbatch, first call: 0 1, 0 1, 0 1
unbatch, batch after: 0 1 3 4 6 7
unbatch, second call: 0 1, 0 1, 0 1
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import jax.numpy as jnp
import jraph
import numpy


def chain(library):
    return jraph.GraphsTuple(
        nodes=library.ones((3, 1)),
        edges=library.ones((2, 1)),
        senders=library.array([0, 1]),
        receivers=library.array([1, 2]),
        n_node=library.array([3]),
        n_edge=library.array([2]),
        globals=library.ones((1, 1)),
    )


for library, batch, unbatch in ((numpy, jraph.batch_np, jraph.unbatch_np), (jnp, jraph.batch, jraph.unbatch)):
    graphs = batch([chain(library)] * 3)
    print(f"{unbatch.__name__}, batch before:", *graphs.senders.tolist())
    for call in ("first", "second"):
        parts = [" ".join(map(str, part.senders.tolist())) for part in unbatch(graphs)]
        print(f"{unbatch.__name__}, {call} call:", ", ".join(parts))
        if call == "first":
            print(f"{unbatch.__name__}, batch after:", *graphs.senders.tolist())
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
