"""A data-parallel trainer in NumPy behind the kit's border: the right one, of which each seeded fault is a subclass.

It adds up shards as a trainer on N devices does, on the oracle's arithmetic, and compiles nothing: the laws of rungs 1,
4 and 6 to 8 can be asked of many wrong trainers within seconds. What a real one can get wrong is a method of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ...adapter import CAPABILITIES, Arrays, Case, HostBatch, StepResult
from ...oracle.draws import rows_of
from ...oracle.masks import Masks
from ...oracle.model import Array, Back, Network, Params, Tape, example_losses
from ...oracle.updates import clip, decays, learning_rate

Trainer = TypeVar("Trainer", bound="type[NumpyTrainer]")


class Sums(NamedTuple):
    """What is added up over examples, devices and micro-batches, before the one division."""

    weight: float
    loss: float
    gradients: Params

    def scaled(self, by: float) -> Sums:
        """All three times a number."""
        return Sums(self.weight * by, self.loss * by, {name: leaf * by for name, leaf in self.gradients.items()})

    def mean(self) -> Sums:
        """As if the examples had a weight of 1 together; nothing stays nothing."""
        return self.scaled(1 / self.weight) if self.weight else self


def added(parts: Sequence[Sums]) -> Sums:
    """The sums of several."""
    leaves = {name: np.asarray(sum(part.gradients[name] for part in parts)) for name in parts[0].gradients}
    return Sums(sum(part.weight for part in parts), sum(part.loss for part in parts), leaves)


def rounded(values: npt.NDArray[Any], kind: Any = ml_dtypes.bfloat16) -> Array:
    """As a narrower type keeps them, bfloat16 by default."""
    return values.astype(kind).astype(np.float64)


class Bfloat16Tape(Tape):
    """Linear layers whose operands and results are rounded to bfloat16, and whose sums are not."""

    def __init__(self, params: Arrays) -> None:
        super().__init__({name: rounded(leaf) for name, leaf in params.items()})

    def linear(self, x: Array, name: str) -> tuple[Array, Back]:
        """See `Tape.linear`."""
        y, back = super().linear(rounded(x), name)
        return rounded(y), lambda dy: rounded(back(rounded(dy)))


class NumpyTrainer:
    """A right trainer. See `TrainerUnderTest` for the methods that have no explanation here."""

    name = "numpy (right)"
    capabilities = CAPABILITIES - {"processes", "program", "lowering", "costs", "parts", "jax"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """Begin a run."""
        self.case, self.n, self.t = case, n_devices, 0
        self.now = self.placed(params)
        self.first: Params = {name: np.zeros(leaf.shape) for name, leaf in self.now.items()}
        self.second: Params = {name: np.zeros(leaf.shape) for name, leaf in self.now.items()}

    def placed(self, params: Arrays) -> Params:
        """The parameters as they lie on the devices: a copy."""
        return {name: np.array(leaf, np.float64) for name, leaf in params.items()}

    def step(self, batch: HostBatch) -> StepResult:
        """One update."""
        loss, gradients = self.mean(batch)
        rate = self.rate()
        self.t += 1
        self.update(self.clip(gradients), rate)
        return StepResult(loss, rate)

    # From a batch to its gradient.

    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        """The mean loss and its gradient, from sums over devices and then over micro-batches."""
        return self.divide([self.reduce([self.sums(part) for part in parts]) for parts in self.micro_batches(batch)])

    def micro_batches(self, batch: HostBatch) -> list[list[HostBatch]]:
        """For each micro-batch, what each device gets of it."""
        shards, many = self.shards(batch), self.case.accumulate
        return [[rows_of(s, np.arange(len(s.weights)) % many == k) for s in shards] for k in range(many)]

    def shards(self, batch: HostBatch) -> list[HostBatch]:
        """What each device gets, in order: blocks of rows; devices for which there are none are left out."""
        rows = len(batch.weights)
        share = self.share(rows)
        parts = [np.arange(d * share, min((d + 1) * share, rows)) for d in range(self.n)]
        return [rows_of(batch, part) for part in parts if len(part)]

    def share(self, rows: int) -> int:
        """How many of the rows a device gets, but for the last ones."""
        return -(-rows // self.n)

    def sums(self, batch: HostBatch) -> Sums:
        """Of one device's part of a micro-batch."""
        weights = batch.weights.astype(np.float64)
        if not weights.any():
            return Sums(0.0, 0.0, {name: np.zeros(leaf.shape) for name, leaf in self.now.items()})
        network = self.network(batch, self.masks(self.t))
        logits, back = self.forward(network)
        losses, slopes = self.losses(logits, batch._replace(labels=np.where(weights > 0, batch.labels, 0)))
        back(weights[:, None] * slopes)
        return Sums(float(weights.sum()), float((weights * losses).sum()), network.tape.gradients)

    def masks(self, step: int) -> Masks | None:
        """The dropout of an update."""
        return Masks(self.case.seed, step) if self.case.dropout else None

    def network(self, batch: HostBatch, masks: Masks | None) -> Network:
        """The model, ready for a batch."""
        found = Network(self.case, {}, batch, masks)
        found.tape = self.tape(self.now)
        return found

    def tape(self, params: Arrays) -> Tape:
        """The operators."""
        return Bfloat16Tape(params) if self.case.precision == "bfloat16" else Tape(params)

    def forward(self, network: Network) -> tuple[Array, Callable[[Array], None]]:
        """Logits and the backward pass."""
        return network.logits()

    def losses(self, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
        """Each example's loss, and its derivative by the logits."""
        return example_losses(self.case, logits, batch.labels)

    def reduce(self, parts: list[Sums]) -> Sums:
        """Over the devices."""
        return added(parts)

    def divide(self, totals: list[Sums]) -> tuple[float, Params]:
        """Over the micro-batches, and the division."""
        whole = added(totals).mean()
        return whole.loss, whole.gradients

    # From a gradient to new parameters.

    def rate(self) -> float:
        """The learning rate of this update."""
        return learning_rate(self.case, self.t)

    def clip(self, gradients: Params) -> Params:
        """By the global norm."""
        return clip(gradients, self.case.clip_norm)

    def update(self, gradients: Params, rate: float) -> None:
        """AdamW. Arrays that were handed out stay as they are."""
        self.first, self.second = self.moments_after(gradients)
        toward, decay = self.directions(self.first, self.second), self.case.weight_decay
        self.now = {k: p - rate * (toward[k] + decay * p * self.decays(k)) for k, p in self.now.items()}

    def moments_after(self, gradients: Params) -> tuple[Params, Params]:
        """Running means of the gradient and of its square."""
        b1, b2 = self.case.b1, self.case.b2
        first = {name: b1 * self.first[name] + (1 - b1) * g for name, g in gradients.items()}
        return first, {name: b2 * self.second[name] + (1 - b2) * g * g for name, g in gradients.items()}

    def directions(self, first: Params, second: Params) -> Params:
        """Where Adam goes."""
        one, two = self.corrections()
        return {name: m / one / (np.sqrt(second[name] / two) + self.case.eps) for name, m in first.items()}

    def corrections(self) -> tuple[float, float]:
        """What the moments are divided by."""
        return 1 - self.case.b1**self.t, 1 - self.case.b2**self.t

    def decays(self, name: str) -> bool:
        """Whether a parameter decays."""
        return decays(name)

    # What is asked of the state.

    def evaluate(self, batch: HostBatch) -> Array:
        """Logits, without dropout."""
        return self.forward(self.network(batch, None))[0]

    def gradients(self, batch: HostBatch) -> Arrays:
        """Before clipping."""
        return self.mean(batch)[1]

    def params(self) -> Arrays:
        """As they are now."""
        return self.now

    def moments(self) -> tuple[Arrays, Arrays]:
        """Both of Adam's."""
        return self.first, self.second

    def replicas(self) -> list[Arrays]:
        """One for each device."""
        return [self.now] * self.n

    def save(self, path: Path) -> None:
        """The whole state."""
        path.joinpath("state.pickle").write_bytes(pickle.dumps((self.now, self.first, self.second, self.t)))

    def restore(self, path: Path) -> None:
        """The whole state."""
        self.now, self.first, self.second, self.t = pickle.loads(path.joinpath("state.pickle").read_bytes())

    def epoch(self, examples: int, batch_size: int, number: int) -> list[npt.NDArray[np.int64]]:
        """An order of its own for each epoch, cut into batches."""
        order = np.random.default_rng((self.case.seed, number)).permutation(examples)
        return [order[i : i + batch_size] for i in range(0, examples, batch_size)]

    def score(self, batches: Sequence[HostBatch]) -> dict[str, float]:
        """From counts over all batches."""
        return self.scores(np.sum([self.counts(batch) for batch in batches], axis=0))

    def counts(self, batch: HostBatch) -> Array:
        """Right ones, all, twice the hits of class 1, and how often it was found and how often it is there."""
        real = batch.weights > 0
        found, want = self.evaluate(batch).argmax(axis=1)[real], batch.labels[real]
        hits = ((found == 1) & (want == 1)).sum()
        return np.array([(found == want).sum(), real.sum(), 2 * hits, (found == 1).sum() + (want == 1).sum()], float)

    def scores(self, counts: Array) -> dict[str, float]:
        """Quotients of counts."""
        right, n, hits, both = counts
        return {"accuracy": float(right / n), "f1": float(hits / both) if both else 0.0}


class OnDevices(NumpyTrainer):
    """A right trainer whose parameters also lie on its devices, and which says what its update moves between them."""

    capabilities = NumpyTrainer.capabilities | {"jax", "program"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """Begin a run."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        super().start(case, params, n_devices)
        everywhere = NamedSharding(Mesh(np.array(self.devices()), ("data",)), PartitionSpec())
        whole = np.concatenate([leaf.ravel() for leaf in self.now.values()]).astype(np.float32)
        self.held: Any = jax.device_put(whole, everywhere)

    def devices(self) -> list[Any]:
        """Those that hold the state."""
        import jax

        return list(jax.devices()[: self.n])

    def program(self, batch: HostBatch) -> str:
        """One all-reduce of all gradients, of the loss and of the weight, as XLA writes it."""
        return self.all_reduce(1)

    def all_reduce(self, number: int) -> str:
        """A line of the program."""
        shapes = [f"f32[{','.join(map(str, leaf.shape))}]" for leaf in self.now.values()]
        return f"  %all-reduce.{number} = ({', '.join(shapes)}, f32[], f32[]) all-reduce(%fusion.{number})"


class Wrong(dict[str, type[NumpyTrainer]]):
    """The wrong trainers of one module, by the fault that each has: `@wrong("id")` adds one."""

    def __call__(self, fault: str) -> Callable[[Trainer], Trainer]:
        """Decorate the trainer that has a fault."""

        def add(trainer: Trainer) -> Trainer:
            trainer.name = f"numpy ({fault})"
            self[fault] = trainer
            return trainer

        return add
