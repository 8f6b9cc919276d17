"""The adapter of sftref's own trainers: the only file of the kit that imports sftref."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax

from sftref.config import ModelConfig, OptimConfig, TrainConfig
from sftref.data.batches import Batch, Layout, epoch_order, fill
from sftref.data.packing import first_fit_decreasing, rows_for
from sftref.data.tokens import TokenArrays
from sftref.model.names import from_hf, to_hf
from sftref.train.checkpoint import Checkpoints
from sftref.train.metrics import classification_metrics
from sftref.train.pipeline import train_feed
from sftref.train.step import Program, TrainState
from sftref.trainers import PmapTrainer, Trainer, make_trainer
from sftref.trainers.parts import parts

from ..adapter import CAPABILITIES, Arrays, Case, HostBatch, StepResult, shapes
from .costs import costs_of

# Most examples in a packed row; more of the kit's examples would not fit.
SLOTS = 3


class SftrefTrainer:
    """A trainer on the first devices of the default platform; `TrainerUnderTest` documents its methods.

    float64 needs `jax_enable_x64`.

    Args:
        kind: `single`, `pmap`, `mesh` or `shard_map`.
        cut: whether parameters and layers are sharded too, along the mesh axes `fsdp` and `tensor`.
        remat: whether the backward pass recomputes activations.
    """

    def __init__(self, kind: str, *, cut: bool = False, remat: bool = False) -> None:
        self.name = f"sftref {kind}{' cut' if cut else ''}{' remat' if remat else ''}"
        self.kind, self.cut, self.remat = kind, cut, remat
        missing = {"devices", "processes"} if kind == "single" else set[str]()
        if kind != "pmap":
            missing.add("parts")
        if cut:
            # No device has all parameters, and devices exchange more than one sum of the gradients.
            missing |= {"replicas", "program", "lowering"}
        if importlib.util.find_spec("orbax") is None:
            missing.add("checkpoint")
        self.capabilities = CAPABILITIES - missing

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        self.case, self.model = case, model_config(case)
        axes = mesh_axes(n_devices) if self.cut else None
        devices = tuple(jax.devices()[:n_devices])
        self.trainer = trainer(self.kind, dataclasses.replace(case, seed=0), devices, axes, self.remat)
        tree = from_hf({name: np.asarray(value, stored(case)) for name, value in params.items()}, self.model)
        moments = no_moments(dataclasses.replace(case, seed=0))
        self.state: TrainState = self.trainer.place(self.trainer.program.state(tree, case.seed, opt_state=moments))

    def step(self, batch: HostBatch) -> StepResult:
        self.state, metrics = self.trainer.train_step(self.state, self._put(batch))
        read = self.trainer.read(metrics)
        return StepResult(float(read.loss), float(read.learning_rate))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        case = dataclasses.replace(self.case, accumulate=1)
        placed, at = lay_out(batch, case, self.trainer.shards)
        logits = self.trainer.read_logits(self.trainer.eval_step(self.state, self._place(placed))[1])
        out = np.zeros((len(batch.weights), logits.shape[-1]), logits.dtype)
        out[at.examples] = logits[at.row, at.slot]
        return out

    def params(self) -> Arrays:
        return to_hf(self.trainer.read(self.state.params))

    def gradients(self, batch: HostBatch) -> Arrays:
        return to_hf(self.trainer.read(self.trainer.gradient_step(self.state, self._put(batch))))

    def moments(self) -> tuple[Arrays, Arrays]:
        adam = optax.tree_utils.tree_get(self.trainer.read(self.state.opt_state), "ScaleByAdamState")
        return to_hf(adam.mu), to_hf(adam.nu)

    def replicas(self) -> Sequence[Arrays]:
        return [to_hf(tree) for tree in self.trainer.replicas(self.state.params)]

    def program(self, batch: HostBatch) -> str:
        return str(self.trainer.compiled(self.state, self._put(batch)).as_text())

    def lowered(self, batch: HostBatch, platform: str) -> str:
        return self.trainer.lowered(self.state, self._put(batch), platform)

    def costs(self, batch: HostBatch) -> Mapping[str, float]:
        return costs_of(self.trainer.compiled(self.state, self._put(batch)))

    def parts(self, batch: HostBatch) -> Mapping[str, Callable[[], Any]]:
        """The parts of an update; the part `input` packs examples, as training does."""
        assert isinstance(self.trainer, PmapTrainer)
        rows, length = batch.input_ids.shape
        config = TrainConfig(trainer="pmap", batch_size=rows, max_length=length)
        feed = train_feed(tokens_of(batch), config, self.trainer, start_step=0, total_steps=self.case.total_steps)
        own = parts(self.trainer, self.state, self._put(batch))
        return own | {"input": lambda: jax.block_until_ready(next(feed).placed)}

    def save(self, path: Path) -> None:
        checkpoints = Checkpoints(path)
        checkpoints.save(self.trainer.read(self.state))
        checkpoints.close()

    def restore(self, path: Path) -> None:
        checkpoints = Checkpoints(path, must_exist=True)
        self.state = self.trainer.place(checkpoints.restore(self.trainer.read(self.state)))
        checkpoints.close()

    def epoch(self, examples: int, batch_size: int, number: int) -> Sequence[npt.NDArray[Any]]:
        order = epoch_order(examples, self.case.seed, number)
        own = self.trainer.part.of_rows(rows_for(batch_size, self.trainer.shards, 1))
        return [order[start : start + batch_size][own.start : own.stop] for start in range(0, examples, batch_size)]

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        case = dataclasses.replace(self.case, accumulate=1)
        counts = np.zeros((self.case.num_labels, self.case.num_labels), np.int64)
        for batch in batches:
            placed = self._place(lay_out(batch, case, self.trainer.shards)[0])
            counts += self.trainer.read(self.trainer.eval_step(self.state, placed)[0]).counts
        return classification_metrics(counts, ("accuracy", "f1"))

    def _put(self, batch: HostBatch) -> Batch:
        return self._place(lay_out(batch, self.case, self.trainer.shards)[0])

    def _place(self, batch: Batch) -> Batch:
        """The rows of this process, on its devices."""
        own = self.trainer.part.of_rows(batch.weights.shape[1])
        return self.trainer.put(Batch(*(leaf[:, own.start : own.stop] for leaf in batch)))


@functools.lru_cache(maxsize=64)
def trainer(
    kind: str, case: Case, devices: tuple[jax.Device, ...], axes: tuple[tuple[str, int], ...] | None, remat: bool
) -> Trainer:
    """The trainer of a case whose seed is set to 0; runs with any seed share it, so a new seed compiles nothing."""
    return make_trainer(kind, program(case, remat=remat), devices, None if axes is None else dict(axes))


def mesh_axes(n: int) -> tuple[tuple[str, int], ...]:
    """Mesh axes for n devices, with as many axes above 1 as n allows: 2 x 2 x 2 for 8, 3 x 1 x 2 for 6."""
    tensor = 2 if n % 2 == 0 else 1
    fsdp = 2 if n // tensor % 2 == 0 else 1
    return (("data", n // tensor // fsdp), ("fsdp", fsdp), ("tensor", tensor))


@functools.lru_cache(maxsize=64)
def no_moments(case: Case) -> Any:
    """The optimizer's state before the first update, on the host; cached, because it took half the time of a start."""
    zeros = {name: np.zeros(shape, stored(case)) for name, shape in shapes(case).items()}
    return jax.device_get(program(case).optimizer.init(from_hf(zeros, model_config(case))))


def stored(case: Case) -> npt.DTypeLike:
    """The dtype in which parameters and moments are stored."""
    return np.float64 if case.precision == "float64" else np.float32


def model_config(case: Case) -> ModelConfig:
    """The `ModelConfig` of a case."""
    return ModelConfig(**case.config, regression=case.regression)


def program(case: Case, *, remat: bool = False) -> Program:
    """The `Program` of a case: what does not change during its run."""
    return Program.of(
        model_config(case),
        OptimConfig(**{field.name: getattr(case, field.name) for field in dataclasses.fields(OptimConfig)}),
        total_steps=case.total_steps,
        dropout="addressed" if case.dropout else "off",
        precision=case.precision,
        remat=remat,
    )


@dataclasses.dataclass(frozen=True)
class Places:
    """Where examples of a HostBatch are: indices [n], rows [n] (counted over all micro-batches), and slots [n]."""

    examples: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]


def lay_out(batch: HostBatch, case: Case, shards: int) -> tuple[Batch, Places]:
    """A batch as sftref takes it, padded or packed, in `case.accumulate` micro-batches; its shape depends on B only.

    Padded rows keep the content of padding, which must not matter. Packed rows have only examples with weight above 0.
    The number of packed rows is that of padded rows, so that the program is compiled once.
    """
    n, length = batch.input_ids.shape
    layout = Layout(case.accumulate, rows_for(n, shards, case.accumulate), length, SLOTS if case.pack else 1)
    if case.pack:
        return _packed(batch, layout)
    rows = layout.micro * layout.rows

    def spread(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        padding = [(0, rows - n)] + [(0, 0)] * (values.ndim - 1)
        return np.pad(values, padding).reshape(layout.micro, layout.rows, *values.shape[1:])

    tokens = spread(batch.attention_mask)
    slots = {name: spread(getattr(batch, name))[..., None] for name in ("labels", "weights", "example_ids")}
    whole = Batch(
        input_ids=spread(batch.input_ids),
        token_type_ids=spread(batch.token_type_ids),
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy(),
        segments=tokens,
        starts=np.zeros((layout.micro, layout.rows, 1), np.int32),
        **slots,
    )
    return whole, Places(np.arange(n), np.arange(n), np.zeros(n, np.int64))


def _packed(batch: HostBatch, layout: Layout) -> tuple[Batch, Places]:
    real = np.flatnonzero(batch.weights > 0)
    tokens = tokens_of(HostBatch._make(leaf[real] for leaf in batch))
    row, slot, start = first_fit_decreasing(tokens.lengths, layout.length, layout.slots)
    index = np.arange(len(real))
    weights = fill(dataclasses.replace(tokens, labels=batch.weights[real]), index, row, slot, start, layout).labels
    packed = fill(tokens, index, row, slot, start, layout)._replace(weights=weights)
    return packed, Places(real, row, slot)


def tokens_of(batch: HostBatch) -> TokenArrays:
    """The tokens of all examples without padding, end to end."""
    real = batch.attention_mask > 0
    return TokenArrays(
        input_ids=batch.input_ids[real],
        token_type_ids=batch.token_type_ids[real].astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int64),
        labels=batch.labels,
        example_ids=batch.example_ids,
    )


single = functools.partial(SftrefTrainer, "single")
pmap = functools.partial(SftrefTrainer, "pmap")
mesh = functools.partial(SftrefTrainer, "mesh")
shard_map = functools.partial(SftrefTrainer, "shard_map")
sharded = functools.partial(SftrefTrainer, "mesh", cut=True)
remat = functools.partial(SftrefTrainer, "mesh", remat=True)
