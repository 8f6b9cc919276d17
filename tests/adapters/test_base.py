"""The base class of adapters: names and layouts of other libraries, clean rows, one build for each case."""

import ast
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from kit import DROPPED, B, batch_of, params_of
from sftref.conformance.adapter import Arrays, Case, check_adapter, shapes
from sftref.conformance.adapters import base
from sftref.conformance.adapters.base import Adapter, Rows
from sftref.conformance.adapters.loop import Functions, Loop, NnxLoop, recorded

pytestmark = pytest.mark.jax

NAMES = {"layers": "bert.encoder.layer", "tables.word": "bert.embeddings.word_embeddings", "head": "classifier"}


def tree_of(case: Case) -> dict[str, Any]:
    """Parameters with kernels as (in, heads, width) and a list of layers, and a dropout rate."""
    width, heads = case.hidden_size, case.num_attention_heads
    like: dict[str, Any] = {}
    for name, shape in shapes(case).items():
        own = name.replace("bert.embeddings.word_embeddings", "tables.word").replace("classifier", "head")
        *path, last = own.split(".")
        kernel = last == "weight" and len(shape) == 2 and "embeddings" not in name
        own_shape = shape[::-1] if kernel else shape
        if kernel and "query" in name:
            own_shape = (width, heads, width // heads)
        node = like
        for part in path:
            node = node.setdefault(part, {})
        node["kernel" if kernel else last] = np.zeros(own_shape, np.float32)
    like["layers"] = [like["bert"]["encoder"]["layer"].pop(str(k)) for k in range(case.num_hidden_layers)]
    return like | {"dropout": {"rate": np.float32(0.1)}}


class Own(Adapter):
    """A trainer that learns nothing, with kernels as (in, heads, width) and a list of layers; it counts its builds."""

    name, capabilities = "own", frozenset({"devices", "replicas", "padding rows"})
    names: ClassVar = NAMES
    columns: ClassVar = {"ids": "input_ids", "mask": "attention_mask", "y": "labels", "w": "weights"}
    builds: ClassVar[list[tuple[int, int]]] = []

    def build(self, case: Case, devices: Any) -> Any:
        self.builds.append((case.seed, len(devices)))
        return tree_of(case)

    def begin(self, params: Arrays, seed: int) -> None:
        self.own = self.replicated(self.to_tree(params, self.built))

    def update(self, rows: Rows) -> tuple[Any, Any]:
        self.seen = rows
        return np.ones(self.n), self.count

    def logits(self, rows: Rows) -> Any:
        assert set(rows) == {"ids", "mask"}
        return jnp.stack([rows["ids"].sum(axis=1)] * self.case.num_labels, axis=-1)

    def tree(self) -> Any:
        return self.own


def started(n: int = 2) -> Own:
    own = Own()
    own.start(DROPPED, params_of(DROPPED), n)
    return own


def test_parameters_come_back_under_the_names_and_layouts_of_a_checkpoint() -> None:
    own, params = started(), params_of(DROPPED)
    check_adapter(own, "own")
    query = "bert.encoder.layer.0.attention.self.query.weight"
    kernel = own.built["layers"][0]["attention"]["self"]["query"]["kernel"]
    filled = own.to_tree(params, own.built)["layers"][0]["attention"]["self"]["query"]["kernel"]
    assert filled.shape == kernel.shape
    assert (filled.reshape(params[query].shape) == params[query].T).all()
    for copy in (own.params(), *own.replicas()):
        assert copy.keys() == params.keys()
        assert all((copy[name] == np.float32(params[name])).all() for name in params)
    assert len(own.replicas()) == 2
    assert own.tree()["dropout"]["rate"].shape == (2,)  # keeps its value, and is no parameter
    decaying = own.decays(own.built)
    assert (decaying["head"]["kernel"], decaying["head"]["bias"], decaying["dropout"]["rate"]) == (True, False, False)


def test_a_case_is_built_once_whatever_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_builds", {})
    monkeypatch.setattr(base, "MOST_BUILDS", 1)
    monkeypatch.setattr(Own, "builds", [])
    for n in (2, 2, 4, 2):
        started(n)
    assert Own.builds == [(0, 2), (0, 4), (0, 2)], "the oldest of too many builds is dropped"


def test_rows_are_clean_and_divide_among_the_devices() -> None:
    own, batch = started(4), batch_of(DROPPED)
    batch.weights[1] = 0
    batch.input_ids[batch.attention_mask == 0] = 10**6
    batch.labels[1] = -7
    assert own.step(batch) == (1.0, 0.0)
    assert own.step(batch) == (1.0, 1.0)
    rows = own.seen
    assert len(rows["w"]) == -(-B // 4) * 4
    assert rows["ids"].max() < DROPPED.vocab_size
    assert (rows["y"][1], rows["mask"][1].tolist()[:2], rows["ids"][1, 0]) == (0, [1, 0], 0)
    assert batch.labels[1] == -7, "the kit's own arrays stay as they are"
    own.pmapped = True
    assert own.rows(batch)["ids"].shape[:2] == (4, len(rows["w"]) // 4)
    assert own.evaluate.__func__ is Adapter.evaluate
    own.pmapped = False
    assert own.evaluate(batch).shape == (B, DROPPED.num_labels)


@pytest.mark.parametrize("names", [{}, NAMES | {"head": "bert.pooler.dense"}])
def test_a_table_of_names_that_leaves_one_out_is_refused(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "names", names)
    with pytest.raises(ValueError, match=r"^own: [02] leaves are named [a-z_.]+, must be one; correct `names`"):
        started()


class Counts(Loop):
    """A loop that adds 1 to every parameter, and keeps a TrainState, or a model and its optimizer."""

    name, capabilities, names = "counts", frozenset({"devices", "moments"}), NAMES
    columns: ClassVar = {"ids": "input_ids", "y": "labels"}

    def build(self, case: Case, devices: Any) -> Functions:
        like = tree_of(case)
        tx, more = optax.adam(1.0), lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree)
        state = TrainState.create(apply_fn=None, params=like, tx=tx)

        def train(state: Any, rows: Rows, keys: Any) -> Any:
            assert len(keys) == 2
            metrics = {"loss": rows["y"].sum(), "learning_rate": state.step}
            return state.replace(step=state.step + 1, params=more(state.params)), metrics, keys

        return Functions({"state": state}, train, lambda state, rows: np.zeros((len(rows["ids"]), case.num_labels)))


class CountsModel(Counts):
    """The same on a model and its optimizer, with AdamW of the case."""

    takes, gives = ("model", "key", "optimizer", "rows"), ("losses", "optimizer", "model")
    evaluates = ("model", "rows")

    def build(self, case: Case, devices: Any) -> Functions:
        like = tree_of(case) | {"flag": np.array(True)}

        def train(model: Any, key: Any, optimizer: Any, batch: Any) -> Any:
            more = jax.tree.map(lambda leaf: leaf + (leaf.dtype != bool), model)
            return batch[None].repeat(2, 0).reshape(2, -1).sum(1) / 2, optimizer, more

        def evaluate(model: Any, batch: Any) -> Any:
            return np.zeros((len(batch), case.num_labels))

        return Functions({"model": like}, train, evaluate, self.adamw(case), lambda rows: rows.get("y", rows["ids"]))


class Node(nnx.Module):
    """A nested dict of arrays as a Module of Modules."""

    def __init__(self, tree: dict[str, Any]) -> None:
        for name, leaf in tree.items():
            setattr(self, name, Node(leaf) if isinstance(leaf, dict) else nnx.Param(jnp.asarray(leaf)))


class CountsNnx(NnxLoop):
    """The same in NNX, with labels as vectors and an evaluation that updates metrics, and takes labels."""

    name, capabilities, names = "counts in NNX", frozenset({"devices", "moments"}), NAMES
    columns: ClassVar = {"ids": "input_ids", "y": "one_hot"}
    scores = True

    def build(self, case: Case, devices: Any) -> Functions:
        tree = tree_of(case)
        model = Node(tree | {"layers": {str(k): layer for k, layer in enumerate(tree["layers"])}})

        def train(model: Any, optimizer: Any, batch: Any) -> Any:
            nnx.update(model, jax.tree.map(lambda leaf: leaf + 1, nnx.state(model, nnx.Param)))
            return batch["y"].argmax(-1).sum()

        def evaluate(model: Any, metrics: Any, batch: Any) -> None:
            logits = jnp.zeros((len(batch["ids"]), case.num_labels))
            metrics.update(loss=batch["y"].sum(), logits=logits, labels=batch["y"].argmax(-1))

        kept = {"model": model, "optimizer": nnx.Optimizer(model, optax.adam(1.0), wrt=nnx.Param)}
        return Functions(kept, nnx.jit(train), nnx.jit(recorded(evaluate)))


@pytest.mark.parametrize("kind", [Counts, CountsModel, CountsNnx])
def test_a_loop_keeps_what_its_functions_take_and_give(kind: type[Loop]) -> None:
    own, params, batch = kind(), params_of(DROPPED), batch_of(DROPPED)
    labels = batch.labels[batch.weights > 0].sum()
    for _ in range(2):
        own.start(DROPPED, params, 2)
        assert [own.step(batch).loss for _ in range(2)] == [labels, labels]
        assert all(
            (leaf == np.float32(params[name]) + np.float32(1) + np.float32(1)).all()
            for name, leaf in own.params().items()
        )
        for moment in own.moments():
            assert moment.keys() == params.keys()
        assert own.evaluate(batch).shape == (B, DROPPED.num_labels)


def test_rows_are_sharded_for_functions_of_jit() -> None:
    own = CountsNnx()
    own.start(DROPPED, params_of(DROPPED), 2)
    batch = own.placed(own.rows(batch_of(DROPPED)))
    assert all(
        [len(shard.data) for shard in leaf.addressable_shards] == [len(leaf) // 2] * 2 for leaf in batch.values()
    )


def test_a_build_outlives_its_run() -> None:
    """The mask of the decay is that of the case that was built, also while a run of another case goes on."""
    own = CountsModel()
    own.start(DROPPED, params_of(DROPPED), 2)
    tx, model = own.built.tx, own.tree()
    shallow = dataclasses.replace(DROPPED, num_hidden_layers=1)
    own.start(shallow, params_of(shallow), 2)
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if leaf.dtype == jnp.float32 else None, model)
    updates, _ = tx.update(zeros, tx.init(model), jax.tree.map(jnp.ones_like, model))
    layer = updates["layers"][1]["output"]["dense"]
    assert DROPPED.num_hidden_layers > 1
    assert DROPPED.warmup_steps == 0
    assert layer["kernel"].max() < 0
    assert (layer["bias"] == 0).all()


def test_a_capability_without_its_method_is_named() -> None:
    adapter = Own()
    adapter.start(DROPPED, params_of(DROPPED), 2)
    with pytest.raises(NotImplementedError, match="Own claims gradients and has no method `gradient`"):
        adapter.gradients(batch_of(DROPPED))
    with pytest.raises(NotImplementedError, match="Own claims program, lowering or costs and has no method `call`"):
        adapter.program(batch_of(DROPPED))


def lines_of(path: Path) -> tuple[int, int]:
    """A file's lines of code after the imports, without and with the table `names`."""
    text = path.read_text(encoding="utf-8")
    shown, table = set(), set()
    for node in ast.parse(text).body[1:]:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            shown |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            shown -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "names":
            table |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    code = {k for k, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    return len(shown & code - table), len(shown & code)


@pytest.mark.once
@pytest.mark.parametrize("name", ["flax_glue", "equinox_bert", "nnx_bert", "torch"])
def test_an_adapter_of_a_trainer_by_others_has_at_most_15_lines_beside_its_names(name: str) -> None:
    kit = Path(base.__file__).parents[1]
    own, whole = lines_of(kit / "adapters" / "examples" / f"{name}.py")
    assert own <= 15
    assert f"examples/{name}.py) | {own}, {whole} |" in (kit / "docs" / "extend.md").read_text(encoding="utf-8")
