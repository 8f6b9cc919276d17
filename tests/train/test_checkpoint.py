"""Restores: names, shapes and dtypes are compared before any value; whatever cannot be restored is one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoints import assert_same, refusal

from sftref.config import ModelConfig, OptimConfig
from sftref.model.names import Params, leaves
from sftref.train.checkpoint import FOLDER, Checkpoints
from sftref.train.step import Program, TrainState

SIZES: dict[str, Any] = {"vocab_size": 11, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}


def state(
    width: int = 4, layers: int = 1, dtype: Any = np.float32, step: int = 3, clip: float | None = None
) -> TrainState:
    """A state of host arrays, with numbers that all differ."""
    config = ModelConfig(**SIZES | {"hidden_size": width, "num_hidden_layers": layers}, max_position_embeddings=8)
    count = iter(range(10_000))
    params: Params = {}
    for leaf in leaves(config):
        node = params
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        shape = leaf.shape[::-1] if leaf.transposed else leaf.shape
        node[leaf.path[-1]] = np.full(shape, next(count), dtype)
    program = Program.of(config, OptimConfig(clip_norm=clip), total_steps=9, dropout="off", precision="float32")
    return program.state(params, seed=5, step=step)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(out)
    checkpoints.save(state())
    checkpoints.close()
    return out


def restore(out: Path, like: TrainState) -> TrainState:
    checkpoints = Checkpoints(out, must_exist=True)
    try:
        return checkpoints.restore(like)
    finally:
        checkpoints.close()


def test_a_state_comes_back_bit_for_bit(saved: Path) -> None:
    like = state(step=0).replace(params=jax.tree.map(np.zeros_like, state().params))
    got = restore(saved, like)
    assert_same(got.params, state().params)
    assert int(got.step) == 3
    assert jax.tree.structure(got.opt_state) == jax.tree.structure(state().opt_state)


ADVICE = "put the --model with which the run began back, or start a new run"
OTHERS = "must have the arrays of this run's model and optimizer and no others"


@pytest.mark.parametrize(
    ("like", "want"),
    [
        (
            {"width": 8},
            "params/classifier/kernel is float32 [4, 2], must be float32 [8, 2] as in the model that --model has now",
        ),
        (
            {"dtype": np.float64},
            "params/classifier/bias is float32 [2], must be float64 [2] as in the model that --model has now",
        ),
        ({"layers": 2}, f"lacks opt_state/0/mu/layer_1/LayerNorm/bias, {OTHERS}"),
    ],
)
def test_another_model_is_named(like: dict[str, Any], want: str, saved: Path) -> None:
    assert refusal(lambda: restore(saved, state(**like))) == f"checkpoint {saved / FOLDER / '3'}: {want}; {ADVICE}"


def test_a_model_with_more_layers_is_not_restored_in_part(tmp_path: Path) -> None:
    """As in https://github.com/google/orbax/issues/2972."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(layers=2))
    checkpoints.close()
    assert f"has opt_state/0/mu/layer_1/LayerNorm/bias, {OTHERS}" in refusal(lambda: restore(tmp_path, state()))


def foreign(folder: Path) -> None:
    """A checkpoint of another program, or of a version of ours with other contents."""
    manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False))
    manager.save(9, args=ocp.args.StandardSave({"weights": np.zeros(3)}))
    manager.close()


def cut(folder: Path) -> None:
    for file in (folder / "3").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: [file.unlink() for file in (folder / "3").rglob(name)] and None


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "foreign": (foreign, f"9: lacks crc32, {OTHERS}; {ADVICE}"),
    "cut off": (cut, "3: cannot be read ("),
    "no description": (without("_METADATA"), "3: cannot be read ("),
    "description of another format": (
        lambda folder: [file.write_text('{"version": 9}') for file in (folder / "3").rglob("_METADATA")],
        "3: cannot be read (",
    ),
    "no values": (without("manifest.ocdbt"), "3: cannot be read ("),
    "an empty folder": (lambda folder: (folder / "7").mkdir(), "7: cannot be read ("),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_cannot_be_restored_is_one_line(case: str, saved: Path, tmp_path: Path) -> None:
    damage, want = DAMAGED[case]
    shutil.copytree(saved, tmp_path / "run")
    damage(tmp_path / "run" / FOLDER)
    message = refusal(lambda: restore(tmp_path / "run", state()))
    assert message.startswith(f"checkpoint {tmp_path / 'run' / FOLDER}/{want}")
    assert message.endswith(("delete it to continue from an earlier one", ADVICE))


def test_files_that_are_no_checkpoints_are_passed_over(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "run" / FOLDER / "8").write_text("")
    (tmp_path / "run" / FOLDER / "notes").mkdir()
    assert int(restore(tmp_path / "run", state()).step) == 3


def test_what_orbax_only_logs_is_not_printed(saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "run" / FOLDER / "3" / "_CHECKPOINT_METADATA").write_text("")  # times and versions, which nothing needs
    assert int(restore(tmp_path / "run", state()).step) == 3
    assert not caplog.records
