"""The mesh trainer with axes data, fsdp and tensor: one device's numbers, less memory each, and what is sent."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sftref.conformance.adapter import Case
from sftref.conformance.adapters.costs import costs_of
from sftref.conformance.adapters.sftref import SftrefTrainer, lay_out, mesh_axes, model_config, program
from sftref.conformance.laws.support.trainer_checks import check_distance
from sftref.conformance.laws.trainer.test_7_invariance import collective_elements
from sftref.conformance.oracle.bounds_measured import gradient_reference, loss_reference, walk
from sftref.conformance.oracle.cases import MAIN, start_params
from sftref.conformance.oracle.draws import batch_of

from sftref.cli import main
from sftref.config import ConfigError, TrainConfig
from sftref.model.names import from_hf, to_hf
from sftref.model.sharding import Places
from sftref.presets import make_config
from sftref.train.step import masks
from sftref.trainers import MeshTrainer, make_trainer
from sftref.trainers.mesh import mesh_of

pytestmark = [pytest.mark.once, pytest.mark.jax]

RNG = np.random.default_rng(3)
PARAMS = start_params(MAIN, RNG)
BATCHES = [batch_of(MAIN, RNG, real=13) for _ in range(2)]


@functools.cache
def trained(shape: tuple[int, int, int], *, remat: bool = False) -> tuple[MeshTrainer, Any, dict[str, Any]]:
    """The trainer, its state after two updates, and its gradients, program and loss."""
    # (data, fsdp, tensor).
    axes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    devices = jax.devices()[: int(np.prod(shape))]
    trainer = make_trainer("mesh", program(MAIN, remat=remat), devices, axes)
    assert isinstance(trainer, MeshTrainer)
    tree = from_hf({name: leaf.astype(np.float32) for name, leaf in PARAMS.items()}, model_config(MAIN))
    state = trainer.place(trainer.program.state(tree, MAIN.seed))
    placed = [trainer.put(lay_out(batch, MAIN, trainer.shards)[0]) for batch in BATCHES]
    results: dict[str, Any] = {"gradients": to_hf(trainer.read(trainer.gradient_step(state, placed[0])))}
    results["program"] = trainer.compiled(state, placed[0])
    state, metrics = trainer.train_step(state, placed[0])
    results["loss"] = float(trainer.read(metrics).loss)
    state, _ = trainer.train_step(state, placed[1])
    return trainer, state, results


@pytest.mark.parametrize(
    ("shape", "remat"),
    [
        ((2, 2, 2), False),
        ((1, 4, 1), True),
        ((1, 1, 4), False),
        pytest.param((1, 4, 1), False, marks=pytest.mark.slow),
        pytest.param((3, 1, 2), False, marks=pytest.mark.slow),
        pytest.param((2, 2, 2), True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_computes_what_the_oracle_does_with_its_part(shape: tuple[int, int, int], remat: bool) -> None:
    """Dropout on: gradient, loss and two updates, within the bounds of the kit; and each device has its part."""
    trainer, state, results = trained(shape, remat=remat)
    want = gradient_reference(MAIN, PARAMS, BATCHES[0])
    for name, bound in want.bounds.items():
        assert np.linalg.norm(results["gradients"][name] - want.want[name]) <= bound.value, name
    loss = loss_reference(MAIN, PARAMS, BATCHES[0])
    assert abs(results["loss"] - float(loss.want["loss"])) <= loss.bounds["loss"].value
    check: Any = _Told()
    ends = walk(MAIN, PARAMS, BATCHES).distance
    check_distance(check, "after two updates", MAIN, PARAMS, to_hf(trainer.read(state.params)), ends, control=False)
    assert check.compared > 30
    part_holds(shape, state)
    check_sent(shape, collective_elements(results["program"].as_text()))


class _Told:
    """The result of `check_distance`."""

    compared = 0

    def tree(self, what: str, got: Any, want: Any, bounds: Any) -> None:
        for name, leaf in want.items():
            assert np.linalg.norm(got[name] - leaf) <= bounds[name].value, (what, name)
            self.compared += 1


def part_holds(shape: tuple[int, int, int], state: Any) -> None:
    """After updates too: what the table cuts, of parameters and moments, is cut by fsdp times tensor."""
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    first = sum(s.data.nbytes for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards if s.device.id == 0)
    parts = shape[1] * shape[2]
    assert 1 / parts <= first / whole <= 1 / parts + 0.22 * (1 - 1 / parts), "67 words are cut by no even number"
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if "kernel" in str(path[-1])]
    cut = [leaf.addressable_shards[0].data.size * parts == leaf.size for leaf in kernels]
    assert sum(cut) >= 3 * 13, "of parameters and both moments: six of each of two layers, and the pooler's"


def check_sent(shape: tuple[int, int, int], sent: dict[str, int]) -> None:
    """What is sent is what the layout needs: elements by kind of collective in the compiled update."""
    data, fsdp, tensor = shape
    parameters = sum(leaf.size for leaf in PARAMS.values())
    tables = sum(leaf.size for name, leaf in PARAMS.items() if "embeddings.weight" in name)
    if fsdp > 1:
        # Each parameter that is cut is gathered, at most twice: forward and backward. Half of it where tensor cuts too.
        assert 0.5 * (parameters - tables) / tensor < sent.get("all-gather", 0) < 2.5 * parameters
    elif tensor > 1:
        assert sent.get("all-gather", 0) < parameters, "along tensor no parameter is gathered but the table"
    if tensor > 1:
        # Sums of activations [R, L, D]: at least one for each of two pairs of products a layer, forward.
        assert sent["all-reduce"] >= 2 * 16 * 16 // (data * fsdp) * MAIN.hidden_size


def test_remat_keeps_less_and_computes_more() -> None:
    """What is kept between forward and backward of six layers, and the operations of an update of two.

    What JAX keeps, that is; XLA's schedule for simulated devices makes little of it (133 MB became 128 MB here).
    """
    kept, flops = {}, {}
    for remat in (False, True):
        adapter, placed = started(MAIN, remat=remat)
        flops[remat] = costs_of(adapter.trainer.compiled(adapter.state, placed))["flops"]
        adapter, placed = started(dataclasses.replace(MAIN, num_hidden_layers=6), remat=remat)
        residuals = jax.eval_shape(functools.partial(_backward, adapter, placed), adapter.state.params)
        kept[remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))
    assert kept[True] < 0.2 * kept[False], kept
    assert 1.1 < flops[True] / flops[False] < 4 / 3, flops


def started(case: Case, *, remat: bool) -> tuple[SftrefTrainer, Any]:
    """An adapter at its start on one device, and a batch there."""
    rng = np.random.default_rng(0)
    adapter = SftrefTrainer("single", remat=remat)
    adapter.start(case, start_params(case, rng), 1)
    return adapter, adapter._put(batch_of(case, rng))


def _backward(adapter: SftrefTrainer, placed: Any, params: Any) -> Any:
    """The backward pass of the loss: a tree whose leaves are what it needs."""
    state = adapter.state.replace(params=params)
    micro = jax.tree.map(lambda leaf: leaf[0], placed)
    dropout = masks(adapter.trainer.program, state, jax.numpy.int32(0), None)
    model = adapter.trainer.program.model
    return jax.vjp(lambda p: model.apply({"params": p}, micro, dropout).sum(), params)[1]


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data=2,model=2", "'model=2', must be AXIS=DEVICES, each of data, fsdp, tensor at most once"),
        ("data=2,data=2", "'data=2', must be"),
        ("fsdp=0", "'fsdp=0', must be"),
        ("tensor", "'tensor', must be"),
    ],
)
def test_a_mesh_that_is_not_one_is_refused(mesh: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(mesh=mesh)


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    assert TrainConfig(mesh="tensor=2").mesh_shape == {"data": 1, "fsdp": 1, "tensor": 2}
    with pytest.raises(ConfigError, match="--trainer pmap has no mesh for --mesh; use --trainer mesh"):
        TrainConfig(mesh="data=2", trainer="pmap")
    with pytest.raises(ConfigError, match="--devices = 3, must be 4 with --mesh data=2,fsdp=2"):
        TrainConfig(mesh="data=2,fsdp=2", devices=3)
    with pytest.raises(
        ConfigError, match="--mesh data=2,fsdp=2: uses 4 devices, but 3 are available; choose sizes with that product"
    ):
        mesh_of({"data": 2, "fsdp": 2}, jax.devices()[:3])
    with pytest.raises(ConfigError, match="--mesh tensor = 3, must divide the model's heads = 4"):
        make_trainer("mesh", program(MAIN), jax.devices()[:3], {"data": 1, "tensor": 3})


def test_the_kits_adapter_cuts_as_many_ways_as_it_can() -> None:
    sizes = {n: [size for _, size in mesh_axes(n)] for n in (1, 2, 3, 4, 6, 8)}
    assert sizes == {1: [1, 1, 1], 2: [1, 1, 2], 3: [3, 1, 1], 4: [1, 2, 2], 6: [3, 1, 2], 8: [2, 2, 2]}


def test_axes_that_do_not_divide_a_dimension_cut_nothing() -> None:
    places = Places(mesh_of({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4]))
    assert places.of(("tensor", "fsdp"), (67, 32)).spec == jax.sharding.PartitionSpec(None, ("fsdp",))
    assert places.of(("tensor", "fsdp"), (66, 31)).spec == jax.sharding.PartitionSpec(("tensor",), None)


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line: cut and computed again for two updates, and two more on devices that have all parameters."""
    monkeypatch.setenv("SFTREF_CACHE", str(tmp_path / "cache"))
    run = ["train", "--model", "tiny", "--batch-size", "24", "--max-length", "64", "--eval-fraction", "0.1"]
    cut = ["--mesh", "data=2,fsdp=2,tensor=2", "--remat"]
    ends = {}
    for name, words in {"cut": [*cut, "--save-every", "2"], "plain": ["--devices", "8"]}.items():
        assert main([*run, *words, "--max-steps", "4", "--out", str(tmp_path / name)]) == 0
        ends[name] = _losses(tmp_path / name)
    # Sums in another order: u sqrt(log2 of what is added up), over four tiny updates less than ten times that.
    np.testing.assert_allclose(ends["cut"], ends["plain"], rtol=10 * 2.0**-24 * 4)
    newest = tmp_path / "cut" / "checkpoints" / "4"
    assert newest.is_dir()
    _forget(newest)
    assert main(["train", "--resume", str(tmp_path / "cut"), "--mesh", "data=8", "--no-remat"]) == 0
    np.testing.assert_allclose(_losses(tmp_path / "cut"), ends["plain"], rtol=10 * 2.0**-24 * 4)


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def _forget(checkpoint: Path) -> None:
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    checkpoint.rmdir()


@pytest.mark.parametrize(
    ("began", "args", "then"),
    [
        ({"mesh": "data=2,fsdp=2"}, {"devices": 3}, ("mesh", None, 3)),
        ({"mesh": "data=2,fsdp=2"}, {"trainer": "pmap"}, ("pmap", None, None)),
        ({"mesh": "data=2,fsdp=2"}, {"trainer": "single"}, ("single", None, None)),
        ({"devices": 4}, {"mesh": "data=2,fsdp=3"}, ("mesh", "data=2,fsdp=3", None)),
        ({"trainer": "pmap", "devices": 4}, {"mesh": "data=8", "trainer": "mesh"}, ("mesh", "data=8", None)),
        ({"mesh": "data=2,fsdp=2"}, {"mesh": "tensor=2"}, ("mesh", "tensor=2", None)),
        ({"mesh": "data=2,fsdp=2"}, {"save_every": 5}, ("mesh", "data=2,fsdp=2", None)),
    ],
)
def test_a_resumed_run_keeps_no_layout_that_contradicts_the_one_asked_for(
    began: dict[str, Any], args: dict[str, Any], then: tuple[str, str | None, int | None]
) -> None:
    config = make_config(args, TrainConfig(**began))
    assert (config.trainer, config.mesh, config.devices) == then
