"""Rung 6: one training step on one device equals the oracle's."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ...adapter import Arrays, Case, HostBatch, TrainerUnderTest, fixed_of
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.bounds_derived import UNIT
from ...oracle.bounds_measured import (
    FACTOR,
    Beside,
    gradient_reference,
    loss_reference,
    walk,
    zero_gradients,
)
from ...oracle.cases import NO_DROPOUT, B, main_case, start_params
from ...oracle.draws import Rng, batch_of, possible, seeded_case, with_weights
from ...oracle.masks import Masks
from ...oracle.model import evaluate, mean_loss
from ...oracle.settings import BFLOAT16_EPS
from ...oracle.tape import Params
from ...oracle.updates import learning_rate
from ..support.compilation import precision
from ..support.running import law, losses_of
from ..support.trainer_checks import (
    check_distance,
    check_evaluation,
    check_gradients,
    check_loss,
    check_updates,
    check_width,
)  # fmt: skip

# This is added to all position embeddings, whose standard deviation is about 1.
FAR = 300.0
# Queries are multiplied by this. The largest score of nearly every query is then above 88, up to which `exp` is finite
# in float32. The noise of the scores grows with them, so the bound holds: 0.16 of it was the most of 200 draws.
LARGE = 64.0
# The classifier is multiplied by this, so that probabilities underflow; the labels are the least probable ones.
SURE = 256.0
REGRESSION = {"num_labels": 1, "regression": True}
# Without clipping, and with an epsilon at which an update is nearly proportional to the moments: nothing hides a scale.
SHOWING = {"clip_norm": None, "eps": 1.0, "learning_rate": 0.02, "warmup_steps": 0}
# An odd number of rows on one device: some kernels take rows in pairs.
ODD = 15
# A first update of rate 0, which shows parameters that are stored in bfloat16; then updates so large that a loss in
# bfloat16 shows each of them.
MOVING = {"eps": 1.0, "learning_rate": 0.5, "warmup_steps": 1}
# Equal examples in bfloat16: four times the terms at which a sum in bfloat16 stops.
MANY = 1024


@law("step.gradients", draws=True, claims=("gradients",))
def test_gradients(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares every leaf of the gradient, also if the embeddings' mean is far above their standard deviation."""
    case = seeded_case(subject, rng)
    batch = batch_of(case, rng, real=int(rng.integers(1, B + 1)))
    params = start_params(case, rng)
    check_gradients(check, subject, case, params, batch, 1)
    # A one-pass variance errs by (mean / deviation)^2 units of round-off, so a small mean would not show it.
    positions = "bert.embeddings.position_embeddings.weight"
    far = params | {positions: params[positions] + FAR}
    check_gradients(check, subject, case, far, batch, 1, rows="a large mean")


@law("step.weights", draws=True, claims=("weights",))
def test_weights(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares loss and gradient of a batch with unequal weights; the loss with equal weights must differ."""
    case = seeded_case(subject, rng)
    params = start_params(case, rng)
    batch = with_weights(batch_of(case, rng), np.resize([0.25, 4.0, 1.0], B))
    want, (loss,) = loss_reference(case, params, batch), losses_of(subject, case, params, [batch], 1)
    check_loss(check, "loss of unequal weights", loss, want)
    plain = {"loss": np.array(mean_loss(case, params, with_weights(batch, batch.weights**0)))}
    check.distinct("the loss of equal weights", plain, want.want, want.bounds)
    if "gradients" in subject.capabilities:
        check_gradients(check, subject, case, params, batch, 1, rows="unequal weights")


@law("step.update", draws=True)
def test_update(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares three updates: the first has learning rate 0, and in the second Adam hides the gradient's scale.

    Three more runs: one update with logits so large that probabilities underflow; two of a small regression with an odd
    number of rows, without clipping and with an epsilon that hides no scale; and, at `quick`, four in bfloat16.
    """
    case = seeded_case(subject, rng)
    batches = [batch_of(case, rng, real=int(rng.integers(1, B + 1))) for _ in range(3)]
    params = start_params(case, rng)
    results = check_updates(check, subject, case, params, batches, 1)
    if case.warmup_steps:
        check.same("learning rate of the first update under a warm-up", results[0].learning_rate, 0.0)
    if not case.regression:
        sure = {name: leaf * SURE if name.startswith("classifier.") else leaf for name, leaf in params.items()}
        batch = with_unlikely_labels(case, sure, batches[0])
        (loss,) = losses_of(subject, case, sure, [batch], 1)
        check_loss(check, "loss with logits far above 88", loss, loss_reference(case, sure, batch))
    changes = possible(subject, SHOWING | ({} if fixed_of(subject).keys() & REGRESSION.keys() else REGRESSION))
    # Where `step.float64` does not run, this run is the one in float64.
    wide = not check.at("standard") and "precision:float64" in subject.capabilities
    case = seeded_case(subject, rng, small=True, **changes, **({"precision": "float64"} if wide else {}))
    what = f"{' of a regression' if case.regression else ' of the small model'}{' in float64' if wide else ''}"
    batches = [some_left_out(batch_of(case, rng, rows=ODD), case) for _ in range(2)]
    params = start_params(case, rng)
    check_updates(check, subject, case, params, batches, 1, what)
    if "moments" in subject.capabilities:
        # A run in float64 may have learning rates in float32; the moments of the first update do not depend on them.
        with precision(case):
            losses_of(subject, case, params, batches[:1], 1)
        check_moments(check, subject, case, params, batches[:1], what)
    # From `standard` on, `training.settings` has such runs. An epsilon that a trainer fixes may be
    # too small for bfloat16.
    half = not check.at("standard") and "precision:bf16" in subject.capabilities
    if half and fixed_of(subject).get("eps", BFLOAT16_EPS) >= BFLOAT16_EPS:
        case = seeded_case(subject, rng, small=True, precision="bfloat16", **possible(subject, MOVING))
        check_each_update(check, subject, case, start_params(case, rng), [batch_of(case, rng) for _ in range(4)])


def with_unlikely_labels(case: Case, params: Params, batch: HostBatch) -> HostBatch:
    """The batch with the classes that are the least probable ones in the first update, which has its dropout.

    The loss of a class that is nearly certain would only be rounding.
    """
    logits = evaluate(case, params, batch, Masks(case.seed, 0) if case.dropout else None)
    unlikely = logits.argmin(axis=1).astype(batch.labels.dtype)
    return batch._replace(labels=np.where(batch.weights > 0, unlikely, batch.labels))


def some_left_out(batch: HostBatch, case: Case) -> HostBatch:
    """The batch with weight 0 in its first two rows, if the trainer claims such rows: its last row counts."""
    return with_weights(batch, batch.weights * (np.arange(len(batch.weights)) > 1)) if case.padding_rows else batch


def check_each_update(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batches: Sequence[HostBatch]
) -> None:
    """Check loss and distance of each update of a run on one device, from the trainer's own parameters before it."""
    beside = Beside(case)
    with precision(case):
        subject.start(case, params, 1)
        now = params
        for step, batch in enumerate(batches):
            want, of = beside.update(now, batch), f"update {step} in {case.precision}"
            check_loss(check, f"loss of {of}", subject.step(batch).loss, want.loss)
            before, now = now, {name: np.array(leaf, np.float64) for name, leaf in subject.params().items()}
            moving = learning_rate(case, step) > 0
            check_distance(check, f"{of},", case, before, now, want.distance, control=moving)
        if "moments" in subject.capabilities:
            check_width(check, subject.moments())


@law("step.logits", draws=True)
def test_logits(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares the logits of an evaluation, row by row, also if attention scores are so large that `exp` overflows."""
    case = main_case(subject.capabilities, fixed=fixed_of(subject))
    params, batch = start_params(case, rng), batch_of(case, rng, real=13)
    check_evaluation(check, subject, case, params, batch, 1)
    large = {name: leaf * LARGE if ".query." in name else leaf for name, leaf in params.items()}
    check_evaluation(check, subject, case, large, batch, 1, " with attention scores far above 88")


@law("step.moments", draws=True, claims=("moments",))
def test_moments(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares Adam's two moments after two updates."""
    case = seeded_case(subject, rng)
    params, batches = start_params(case, rng), [batch_of(case, rng) for _ in range(2)]
    losses_of(subject, case, params, batches, 1)
    check_moments(check, subject, case, params, batches)


def check_moments(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batches: Sequence[HostBatch], of: str = ""
) -> None:
    """Check both moments at the end of a run; `of` is what a message adds about the run."""
    want = walk(case, params, batches)
    with precision(case):
        moments = subject.moments()
    for name, got, moment in zip(("first", "second"), moments, (want.first, want.second), strict=True):
        check.tree(f"{name} moment{of} of", got, moment.want, moment.bounds)
        empty = {leaf: np.zeros_like(value) for leaf, value in moment.want.items()}
        check.distinct("moments of zero", empty, moment.want, moment.bounds)


@law("step.float64", draws=True, claims=("gradients", "precision:float64"))
def test_float64(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares the gradient in float64, where rounding cannot hide an error of 1e-12."""
    case = seeded_case(subject, rng, precision="float64")
    check_gradients(check, subject, case, start_params(case, rng), batch_of(case, rng, real=13), 1)


@law("step.bfloat16", draws=True, claims=("gradients", "precision:bf16"))
def test_bfloat16(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares the gradient in bfloat16; its error must not be far below that of rounding to 8 bits.

    MANY equal short examples, without dropout, have the mean gradient of one. A sum of their terms in bfloat16 would
    stop at 256 terms, where 256 + 1 is 256. The trainer's own gradient of the first of them alone, with the same
    shapes, has the same roundings: MANY and the weights are powers of 2. So each of its leaves can be compared.
    """
    case = seeded_case(subject, rng, precision="bfloat16")
    params, batch = start_params(case, rng), batch_of(case, rng, real=13)
    check_gradients(check, subject, case, params, batch, 1)
    subject.start(case, params, 1)
    want, got = gradient_reference(case, params, batch), subject.gradients(batch)
    error = np.sqrt(sum(float(((np.asarray(got[k], np.float64) - w) ** 2).sum()) for k, w in want.want.items()))
    noise = np.sqrt(sum(bound.noise**2 for bound in want.bounds.values()))
    # The error of float32 is 2^16 times smaller; that of a mode which rounds only some products is within FACTOR^2.
    check.at_least("error of the bfloat16 gradient", error, noise / FACTOR**2, "rounding to 8 bits causes this error")
    if any(fixed_of(subject).get(name, 0.0) for name in NO_DROPOUT):
        return
    case = dataclasses.replace(case, **NO_DROPOUT)
    one = batch_of(case, rng, rows=1, longest=4, columns=4)
    equal = HostBatch(*(np.repeat(leaf, MANY, axis=0) for leaf in one))
    subject.start(case, params, 1)
    got, what = subject.gradients(equal), f"gradient of {MANY} equal examples:"
    if case.padding_rows:
        wanted, bounds = alone(case, subject.gradients(with_weights(equal, equal.weights * (np.arange(MANY) == 0))))
    else:
        want = gradient_reference(case, params, one)
        # Only the tables': their gradients are sums over tokens. Those of products are noisier than the bound allows.
        wanted = {name: leaf for name, leaf in want.want.items() if name.endswith("_embeddings.weight")}
        bounds = {name: want.bounds[name] for name in wanted}
    check.tree(what, {name: got[name] for name in wanted}, wanted, bounds)


def alone(case: Case, gradient: Arrays) -> tuple[Params, dict[str, Bound]]:
    """A trainer's own bfloat16 gradient of one example, and bounds for that of many equal ones: one more rounding each.

    The roundings before the sum are the same. A leaf may be stored in bfloat16, so each of the two gradients errs by
    u / sqrt(3) of its size in the root mean square. Leaves whose exact gradient is zero are left out.
    """
    zero = zero_gradients(case)
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in gradient.items() if name not in zero}
    noises = {name: UNIT["bfloat16"] * math.sqrt(2 / 3) * float(np.linalg.norm(leaf)) for name, leaf in leaves.items()}
    why = f"{FACTOR:g} x a rounding to bfloat16 of each gradient"
    return leaves, {name: Bound(FACTOR * noise, noise, why) for name, noise in noises.items()}


@law("step.regression", draws=True, claims=("gradients",))
def test_regression(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares the gradient of a model with one output and a squared error."""
    case = seeded_case(subject, rng, small=True, num_labels=1, regression=True)
    check_gradients(check, subject, case, start_params(case, rng), batch_of(case, rng, real=13), 1)


@law("step.zero_gradients", draws=True, claims=("gradients",))
def test_zero_gradients(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares with zero the gradient of the words that no example of positive weight contains."""
    case = seeded_case(subject, rng)
    batch = batch_of(case, rng, real=13)
    # The last word of the vocabulary is replaced, so that at least one word is in no example.
    batch = batch._replace(input_ids=np.where(batch.input_ids == case.vocab_size - 1, 0, batch.input_ids))
    with precision(case):
        subject.start(case, start_params(case, rng), 1)
        got = subject.gradients(batch)["bert.embeddings.word_embeddings.weight"]
    seen = batch.attention_mask.astype(bool) & (batch.weights > 0)[:, None]
    absent = np.setdiff1d(np.arange(case.vocab_size), batch.input_ids[seen])
    rows = np.asarray(got)[absent]
    check.equal("gradient of the words that no example holds", rows, np.zeros_like(rows), control=np.ones_like(rows))
