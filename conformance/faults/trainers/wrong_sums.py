"""Trainers wrong between devices or micro-batches: which rows a device gets, what is summed, who holds the result."""

from typing import Any

from ...adapter import Arrays, Case, HostBatch
from ...oracle.model import Array, Params
from ..backend.seeding import WrongTrainers
from .numpy_trainer import NumpyTrainer, OnDevices, Sums, added, rounded

wrong = WrongTrainers(NumpyTrainer, "numpy")


def first_weighted(parts: list[Sums]) -> Sums:
    """The sums of the first device with an example of weight above 0; of device 0 if there is none."""
    return next((part for part in parts if part.weight), parts[0])


# Trainers with one wrong method of one expression.
wrong.method("remainder-dropped", "share", lambda right, self, rows: rows // self.n)
wrong.method("missing-all-reduce", "reduce", lambda right, self, parts: first_weighted(parts))
wrong.method("mean-of-micro-batches", "divide", lambda right, self, sums: right(self, [part.mean() for part in sums]))


@wrong("mean-of-means")
class _MeanOfMeans(NumpyTrainer):
    def reduce(self, parts: list[Sums]) -> Sums:
        return super().reduce([part.mean()._replace(weight=float(part.weight > 0)) for part in parts])


@wrong("reduced-twice")
class _ReducedTwice(NumpyTrainer):
    def reduce(self, parts: list[Sums]) -> Sums:
        total = super().reduce(parts)
        return total._replace(gradients=total.scaled(self.n).gradients)


@wrong("gradients-summed-in-bfloat16")
class _SummedInBfloat16(NumpyTrainer):
    def reduce(self, parts: list[Sums]) -> Sums:
        if self.n > 1:
            narrow = [{name: rounded(leaf) for name, leaf in part.gradients.items()} for part in parts]
            parts = [part._replace(gradients=leaves) for part, leaves in zip(parts, narrow, strict=True)]
        return super().reduce(parts)


@wrong("empty-shard-counts")
class _EmptyShardCounts(NumpyTrainer):
    def reduce(self, parts: list[Sums]) -> Sums:
        return super().reduce([part._replace(weight=part.weight or 1.0) for part in parts])


@wrong("loss-of-device-0")
class _LossOfDevice0(NumpyTrainer):
    def reduce(self, parts: list[Sums]) -> Sums:
        total = super().reduce(parts)
        return total._replace(loss=first_weighted(parts).mean().loss * total.weight)


@wrong("accumulation-not-divided")
class _NotDivided(NumpyTrainer):
    def divide(self, totals: list[Sums]) -> tuple[float, Params]:
        whole = added([total.mean() for total in totals])
        return whole.loss, whole.gradients


@wrong("update-lost-above-4-devices")
class _UpdateLost(NumpyTrainer):
    def update(self, gradients: Params, rate: float) -> None:
        before = self.now
        super().update(gradients, rate)
        if self.n > 4:
            last = f"bert.encoder.layer.{self.case.num_hidden_layers - 1}.output.dense.weight"
            self.now[last] = before[last]


@wrong("replicas-drift")
class _ReplicasDrift(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.untouched = self.now

    def replicas(self) -> list[Arrays]:
        return [*super().replicas()[:-1], self.untouched]


@wrong("logits-by-device")
class _LogitsByDevice(NumpyTrainer):
    def evaluate(self, batch: HostBatch) -> Array:
        logits = super().evaluate(batch)
        return logits.reshape(2, -1, logits.shape[1]).swapaxes(0, 1).reshape(logits.shape)


@wrong("remainder-not-evaluated")
class _RemainderNotEvaluated(NumpyTrainer):
    def evaluate(self, batch: HostBatch) -> Array:
        logits = super().evaluate(batch)
        share = self.share(len(logits))
        full = len(logits) // share * share
        logits[full:] = logits[full - 1]
        return logits


@wrong("devices-left-out")
class _DevicesLeftOut(OnDevices):
    def devices(self) -> list[Any]:
        return super().devices()[: min(2, max(self.n - 1, 1))]


@wrong("gradient-reduced-twice-in-the-program")
class _TwiceInTheProgram(OnDevices):
    def program(self, batch: HostBatch) -> str:
        return f"{self.all_reduce(1)}\n{self.all_reduce(2)}"
