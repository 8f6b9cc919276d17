"""Trainers wrong between devices or micro-batches: which rows a device gets, what is summed, who holds the result."""

from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch
from ...oracle.draws import rows_of
from ...oracle.tape import Array, Params
from ..backend.seeding import SeededFaults
from .numpy_trainer import NumpyTrainer, OnDevices, Sums, added, rounded

FAULTS = SeededFaults(NumpyTrainer)


def first_weighted(parts: list[Sums]) -> Sums:
    """The sums of the first device with an example of weight above 0; of device 0 if there is none."""
    return next((part for part in parts if part.weight), parts[0])


# Trainers with one wrong method of one expression.
FAULTS.method("remainder-dropped", "share")(lambda right, self, rows: rows // self.n)
FAULTS.method("missing-all-reduce", "reduce")(lambda right, self, parts: first_weighted(parts))
FAULTS.method("sum-in-too-few-rounds", "reduce")(
    lambda right, self, parts: right(self, parts[: 2 ** (self.n.bit_length() - 1)])
)
FAULTS.method("mean-of-means", "reduce")(
    lambda right, self, parts: right(self, [p.mean()._replace(weight=float(p.weight > 0)) for p in parts])
)
FAULTS.method("empty-shard-counts", "reduce")(
    lambda right, self, parts: right(self, [part._replace(weight=part.weight or 1.0) for part in parts])
)
FAULTS.method("rest-of-micro-batches-lost", "micro_batches")(
    lambda right, self, batch: right(
        self, rows_of(batch, np.arange(len(batch.weights) // self.case.accumulate * self.case.accumulate))
    )
)
FAULTS.method("mean-of-micro-batches", "divide")(lambda right, self, sums: right(self, [part.mean() for part in sums]))


@FAULTS.method("reduced-twice", "reduce")
def _reduced_twice(right: Any, self: NumpyTrainer, parts: list[Sums]) -> Sums:
    total = right(self, parts)
    return total._replace(gradients=total.scaled(self.n).gradients)


@FAULTS.method("gradients-summed-in-bfloat16", "reduce")
def _summed_in_bfloat16(right: Any, self: NumpyTrainer, parts: list[Sums]) -> Sums:
    if self.n > 1:
        parts = [part._replace(gradients={k: rounded(g) for k, g in part.gradients.items()}) for part in parts]
    return right(self, parts)


@FAULTS.method("loss-of-device-0", "reduce")
def _loss_of_device_0(right: Any, self: NumpyTrainer, parts: list[Sums]) -> Sums:
    total = right(self, parts)
    return total._replace(loss=first_weighted(parts).mean().loss * total.weight)


@FAULTS.method("accumulation-not-divided", "divide")
def _not_divided(right: Any, self: NumpyTrainer, totals: list[Sums]) -> tuple[float, Params]:
    whole = added([total.mean() for total in totals])
    return whole.loss, whole.gradients


@FAULTS.method("update-lost-above-4-devices", "update")
def _update_lost(right: Any, self: NumpyTrainer, gradients: Params, rate: float) -> None:
    before = self.now
    right(self, gradients, rate)
    if self.n > 4:
        last = f"bert.encoder.layer.{self.case.num_hidden_layers - 1}.output.dense.weight"
        self.now[last] = before[last]


@FAULTS.trainer("replicas-drift")
class _ReplicasDrift(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.untouched = self.now

    def replicas(self) -> list[Arrays]:
        return [*super().replicas()[:-1], self.untouched]


@FAULTS.trainer("replicas-drift-unless-power-of-two")
class _ReplicasDriftByCount(_ReplicasDrift):
    def replicas(self) -> list[Arrays]:
        return super().replicas() if self.n & (self.n - 1) else NumpyTrainer.replicas(self)


@FAULTS.method("logits-by-device", "evaluate")
def _logits_by_device(right: Any, self: NumpyTrainer, batch: HostBatch) -> Array:
    logits = right(self, batch)
    return logits.reshape(2, -1, logits.shape[1]).swapaxes(0, 1).reshape(logits.shape)


@FAULTS.method("remainder-not-evaluated", "evaluate")
def _remainder_not_evaluated(right: Any, self: NumpyTrainer, batch: HostBatch) -> Array:
    logits = right(self, batch)
    share = self.share(len(logits))
    full = len(logits) // share * share
    logits[full:] = logits[full - 1]
    return logits


@FAULTS.trainer("devices-left-out")
class _DevicesLeftOut(OnDevices):
    def devices(self) -> list[Any]:
        return super().devices()[: min(2, max(self.n - 1, 1))]


@FAULTS.trainer("all-devices-of-the-machine")
class _AllDevices(OnDevices):
    def devices(self) -> list[Any]:
        import jax

        return list(jax.devices()) if self.n > 1 else super().devices()


@FAULTS.trainer("gradient-reduced-twice-in-the-program")
class _TwiceInTheProgram(OnDevices):
    def program(self, batch: HostBatch) -> str:
        return f"{self.all_reduce(1)}\n{self.all_reduce(2)}"
