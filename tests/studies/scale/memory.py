"""bert-base compiled for meshes of 8 simulated devices -> MEMORY.md: bytes per device, array elements sent.

    python tests/studies/scale/memory.py

Nothing is run: shapes and shardings are enough to compile. XLA reports the bytes (`memory_analysis` of the compiled
update): arguments are the state and the batch; temporaries are all else that an update needs.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from model import BASE
from sftref.conformance.adapters.costs import costs_of
from sftref.conformance.laws.trainer.test_7_invariance import collective_elements

from sftref.config import OptimConfig
from sftref.data.batches import Batch
from sftref.train.step import Program
from sftref.trainers import MeshTrainer, make_trainer

HERE = Path(__file__).parent
ROWS, LENGTH = 32, 128
# The sizes of the axes (data, fsdp, tensor), and whether to use `--remat`.
MESHES = (
    ((8, 1, 1), False),
    ((1, 8, 1), False),
    ((4, 1, 2), False),
    ((2, 2, 2), False),
    ((1, 4, 2), False),
    ((8, 1, 1), True),
    ((2, 2, 2), True),
)
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def compiled(shape: tuple[int, int, int], *, remat: bool) -> Any:
    """The compiled update of bert-base on a mesh of this shape."""
    program = Program.of(
        BASE.config(heads=12), OptimConfig(), total_steps=100, dropout="addressed", precision="float32", remat=remat
    )
    axes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    trainer = make_trainer("mesh", program, jax.devices(), axes)
    assert isinstance(trainer, MeshTrainer)
    whole, slot = (1, ROWS, LENGTH), (1, ROWS, 1)
    kinds = {"weights": jnp.float32, "example_ids": jnp.uint32}
    tokens = ("input_ids", "token_type_ids", "positions", "segments")
    rows = NamedSharding(trainer.mesh, PartitionSpec(None, trainer.places.row_axes))
    batch = Batch(
        **{
            name: jax.ShapeDtypeStruct(whole if name in tokens else slot, kinds.get(name, jnp.int32), sharding=rows)
            for name in Batch._fields
        }
    )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch)
    params = jax.eval_shape(program.model.init, jax.random.key(0), one)["params"]
    state = jax.eval_shape(lambda p: program.state(p, 0), params)
    copies = NamedSharding(trainer.mesh, PartitionSpec())
    where = trainer.places.of_state(state) if trainer.places.shards_model else jax.tree.map(lambda _: copies, state)
    placed = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), state, where)
    return trainer.compiled(placed, batch)


def main() -> int:
    """Compile the update for all meshes, and write the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    lines = [
        "# Memory of bert-base, by mesh",
        "",
        f"`python tests/studies/scale/memory.py` measured 8 simulated devices, {ROWS} rows of {LENGTH} tokens in all,",
        f"float32, dropout on, JAX {jax.__version__}. Arguments and temporaries are MB a device of the compiled",
        "update. The collectives are millions of elements sent.",
        "",
        "The state shrinks to an eighth along fsdp and to a half along tensor, except for biases, LayerNorms and",
        "positions, which are not sharded. Temporaries do not shrink: the compiled programs have no reduce-scatter, so",
        "every device holds the whole gradient (438 MB) before it keeps its part. `--remat` changes little here;",
        "`tests/model/test_sharding.py` measures what it keeps between forward and backward.",
        "",
        f"| data x fsdp x tensor | arguments | temporaries | {' | '.join(KINDS)} |",
        f"|{' --- |' * (3 + len(KINDS))}",
    ]
    for shape, remat in MESHES:
        began = time.monotonic()
        found = compiled(shape, remat=remat)
        costs, sent = costs_of(found), collective_elements(found.as_text())
        name = " x ".join(map(str, shape)) + (", remat" if remat else "")
        cells = [f"{costs[part] / 1e6:,.0f}" for part in ("arguments", "temporary")]
        cells += [f"{sent.get(kind, 0) / 1e6:,.1f}" for kind in KINDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(f"{lines[-1]}   {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    (HERE / "MEMORY.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
