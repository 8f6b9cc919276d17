"""Rung 7: neither the number of devices nor the placement of rows on them changes the step."""

import numpy as np

from ...adapter import TrainerUnderTest, fixed_of
from ...core.check import Check, LawBroken, NotRunReason
from ...oracle.bounds_measured import loss_reference
from ...oracle.cases import MAIN, NO_DROPOUT, B, main_case, start_params
from ...oracle.draws import MOST, Rng, batch_of, divides, draw_case, possible, with_weights
from ...oracle.model import mean_loss
from ..support.compilation import precision
from ..support.running import law, losses_of
from ..support.trainer_checks import (
    check_evaluation,
    check_gradients,
    check_loss,
    check_same_bits,
    check_same_run,
    check_updates,
)

COUNTS = (2, 3, 4, 6, 8)
EVEN = "equal shards of equal weight"


@law("equivalence.devices", draws=True, claims=("devices",))
def test_devices(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares gradient, loss, logits and updates on all devices with the oracle's."""
    case, params, batch = draw_case(subject, rng)
    if "gradients" in subject.capabilities:
        check_gradients(check, subject, case, params, batch, n)
    check_updates(check, subject, case, params, [batch, batch_of(case, rng)], n)
    check_evaluation(check, subject, case, params, batch, n)


@law("equivalence.device_counts", draws=True, claims=("devices",))
def test_device_counts(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares updates on fewer devices, also on numbers of devices that do not divide the number of rows."""
    check.need(n > 2, f"needs 3 devices, found {n}")
    # The small model, since each number of devices compiles a program; with dropout, whose masks differ by row.
    rates = {name: getattr(MAIN, name) for name in NO_DROPOUT if "dropout" in subject.capabilities}
    case, params, batch = draw_case(subject, rng, small=True, **possible(subject, rates))
    for fewer in [count for count in COUNTS if count < n and divides(subject, count)]:
        check_updates(check, subject, case, params, [batch, batch], fewer)
        if "replicas" in subject.capabilities:
            copies = subject.replicas()
            for device, copy in enumerate(copies[1:], 1):
                check_same_bits(check, f"{{}} on device {device} of {fewer}", copy, copies[0])
        if fewer == 3 or check.at("full"):
            if "gradients" in subject.capabilities:
                check_gradients(check, subject, case, params, batch, fewer)
            check_evaluation(check, subject, case, params, batch, fewer)


@law("equivalence.against", draws=True)
def test_against(check: Check, subject: TrainerUnderTest, against: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares two updates on all devices with those of the trainer of `--against` on one device."""
    fixed = {**fixed_of(against), **fixed_of(subject)}
    case = main_case(subject.capabilities & against.capabilities, seed=int(rng.integers(MOST)), fixed=fixed)
    params, batches = start_params(case, rng), [batch_of(case, rng, real=13), batch_of(case, rng)]
    runs = []
    for trainer, count in ((subject, n), (against, 1)):
        with precision(case):
            loss, _ = losses_of(trainer, case, params, batches, count)
            runs.append((loss, {name: np.array(leaf, np.float64) for name, leaf in trainer.params().items()}))
    whats = f"first loss, N = {n},", f"N = {n} against {against.name},"
    check_same_run(check, whats, case, params, batches, *runs)


def patterns(n: int) -> dict[str, np.ndarray]:
    """Name -> a mask of the B rows that count; the rows are sharded in blocks over n devices."""
    share = -(-B // n)
    row = np.arange(B)
    return {
        EVEN: row < n * (B // n),
        "unequal shards": row < B - (share + 1) // 2,
        "an empty shard": row < B - share,
        "one row a device": row % share == 0,
        "one row in all": row == B // 2,
        "an empty shard in the middle": row // share != n // 2,
    }


@law("equivalence.layouts", draws=True, claims=("devices", "gradients", "padding rows"))
def test_layouts(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the gradients for several placements of the rows that count, and names the placements that fail."""
    case, params, _ = draw_case(subject, rng)
    batch = batch_of(case, rng)
    check.facts["layouts"] = list(patterns(n))
    failures: dict[str, LawBroken] = {}
    for name, kept in patterns(n).items():
        weighted = with_weights(batch, kept * (1.0 if name == EVEN else batch.weights))
        try:
            check_gradients(check, subject, case, params, weighted, n, rows=name)
        except LawBroken as broken:
            if broken.final:
                raise
            failures[name] = broken
    if failures:
        first = next(iter(failures.values()))
        names = ", with ".join(failures)
        raise LawBroken(f"wrong with {names} (of {len(patterns(n))} layouts): {first}") from first


@law("equivalence.float64", draws=True, claims=("devices", "gradients", "precision:float64"))
def test_float64(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the gradient on all devices in float64, where rounding cannot hide an error of 1e-12."""
    case, params, batch = draw_case(subject, rng, precision="float64")
    check_gradients(check, subject, case, params, batch, n)


@law("equivalence.loss", draws=True, claims=("devices",))
def test_loss_is_global(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the reported loss of a batch whose weights differ much between devices."""
    case, params, batch = draw_case(subject, rng)
    check.need(case.weighted or case.padding_rows, "needs weights or rows of weight 0", NotRunReason.NOT_APPLICABLE)
    first, row = np.arange(B) < B // n, np.arange(B)
    weights = batch.weights * (np.where(first, 16, 1) if case.weighted else ~first | (row == 0))
    heavy = with_weights(batch, weights)
    want, (loss,) = loss_reference(case, params, heavy), losses_of(subject, case, params, [heavy], n)
    check_loss(check, f"loss of unequal shards, N = {n},", loss, want)
    plain = {"loss": np.array(mean_loss(case, params, batch))}
    check.distinct("the loss without those weights", plain, want.want, want.bounds)
