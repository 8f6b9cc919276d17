"""Rung 8, a whole run: final parameters, learning rates, weight decay, data order, metrics and checkpoints."""

import collections
import dataclasses
from pathlib import Path

import numpy as np

from ...adapter import TrainerUnderTest
from ...core.check import Check, NotRunReason
from ...core.comparison import Bound
from ...oracle.bounds_measured import FACTOR, walk
from ...oracle.cases import B, start_params
from ...oracle.draws import Rng, batch_of, divides, draw_case, rows_of, seeded_case, with_weights
from ...oracle.updates import decays, learning_rate
from ..support.running import law, losses_of
from ..support.trainer_checks import check_distance, check_rate, check_same_bits, check_score

# Corner cases of the schedule: (total steps, warm-up steps).
CORNERS = ((1, 0), (2, 0), (3, 0), (2, 1), (3, 2))
EPOCHS = (0, 1, 2, 3)
# Added to a class's bias, so that every prediction is that class.
FAR = 1000.0


@law("training.fifty_steps")
def test_fifty_steps(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares all learning rates and the final parameters of a run with changing batches on all devices."""
    case, params, _ = draw_case(subject, rng)
    few = [batch_of(case, rng, real=int(rng.integers(9, 17))) for _ in range(5)]
    batches = [few[step % 5] for step in range(case.total_steps)]
    subject.start(case, params, n)
    losses = check.facts["losses"] = []
    for step, batch in enumerate(batches):
        result = subject.step(batch)
        losses.append(float(result.loss))
        check_rate(check, case, step, result.learning_rate)
    what, want = f"after {len(batches)} updates, N = {n},", walk(case, params, batches).distance
    check_distance(check, what, case, params, subject.params(), want)


@law("training.schedule")
def test_schedule(check: Check, subject: TrainerUnderTest) -> None:
    """Compares learning rates and final parameters of short runs, with and without a warm-up."""
    for total, warmup in CORNERS if check.at("full") else CORNERS[::3]:
        rng = np.random.default_rng((check.seed, total, warmup))
        case = seeded_case(subject, rng, small=True, total_steps=total, warmup_steps=warmup)
        params, batch = start_params(case, rng), batch_of(case, rng)
        subject.start(case, params, 1)
        for step in range(total):
            check_rate(check, case, step, subject.step(batch).learning_rate)
        want = walk(case, params, [batch] * total).distance
        check_distance(check, f"after {total} updates, warm-up {warmup},", case, params, subject.params(), want)


@law("training.decay", draws=True)
def test_decay(check: Check, subject: TrainerUnderTest, rng: Rng) -> None:
    """Compares each leaf's decay (what an update subtracts beyond Adam's step) with the full decay or with none."""
    case, params, batch = draw_case(subject, rng)
    words = "needs weight_decay > 0; the trainer's is fixed at 0"
    check.need(case.weight_decay > 0, words, NotRunReason.NOT_APPLICABLE)
    # Until the first update that moves: its gradient does not depend on an earlier decay. A warm-up begins at rate 0.
    moves = 0 if learning_rate(case, 0) else 1
    batches = [batch] * (moves + 1)
    losses_of(subject, case, params, batches, 1)
    walked = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in subject.params().items()}
    undecayed = walk(dataclasses.replace(case, weight_decay=0.0), params, batches).distance
    full = learning_rate(case, moves) * case.weight_decay
    for name, start in params.items():
        if name in undecayed.bounds and not name.endswith("key.bias"):
            # How much of the parameter the update subtracts beyond Adam's step, as a share of the full decay.
            decay = float(((undecayed.want[name] - walked[name]) * start).sum() / (start**2).sum()) / full
            noise = undecayed.bounds[name].noise / float(np.linalg.norm(start)) / full
            bound = Bound(min(FACTOR * noise, 0.5), noise, "noise of the update along the parameter")
            check.at_most(f"decay of {name}, {decay:.4f} of full", abs(decay - decays(name)), bound)


@law("training.evaluation", draws=True)
def test_evaluation(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the logits of two evaluations, and a run with evaluations with a run without."""
    case, params, batch = draw_case(subject, rng)
    losses_of(subject, case, params, [batch], n)
    logits = np.asarray(subject.evaluate(batch))
    before = {name: np.array(leaf) for name, leaf in subject.params().items()}
    real = batch.weights > 0
    check.equal("logits evaluated again", np.asarray(subject.evaluate(batch))[real], logits[real])
    check_same_bits(check, "after evaluation, {}", subject.params(), before)
    evaluated = subject.step(batch)
    _, loss = losses_of(subject, case, params, [batch, batch], n)
    check.same("loss of the update after an evaluation", evaluated.loss, loss)


@law("training.metrics", draws=True, claims=("metrics",))
def test_metrics(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares accuracy and F1 of splits, whose last batch is partial, with the counts of all examples.

    Besides random labels: a split where class 1 is neither predicted nor present, one where only labels have it, and
    one whose weights are not 1.
    """
    case = seeded_case(subject, rng, small=True, num_labels=2)
    params = start_params(case, rng)
    drawn = [batch_of(case, rng, real=real) for real in (B, B, 5)]
    batches = [with_weights(batch, (batch.weights > 0).astype(np.float32)) for batch in drawn]
    without = [batch._replace(labels=np.zeros_like(batch.labels)) for batch in batches]
    zeros = params | {"classifier.bias": params["classifier.bias"] + np.array([FAR, 0.0])}
    for what, start, split in (
        ("", params, batches),
        (" without class 1", zeros, without),
        (" if class 1 is never predicted", zeros, batches),
        (" with weights that are not 1", params, drawn),
    ):
        subject.start(case, start, n)
        check_score(check, what, subject, split)


@law("training.data_order", claims=("data order",))
def test_data_order(check: Check, subject: TrainerUnderTest, n: int, tmp_path: Path) -> None:
    """Compares the examples of four epochs, and draws epochs a second time: at once, and after a restart."""
    for examples, size in ((37, 8), (64, 16), (5, 8), (1, 1)):
        rng = np.random.default_rng((check.seed, examples))
        case = seeded_case(subject, rng, small=True)
        params = start_params(case, rng)
        # On all devices, since a split of an epoch among them may repeat examples or leave some out.
        subject.start(case, params, n)
        flat = [epoch(check, subject, examples, size, number) for number in (*EPOCHS, 0)]
        check.same("the same epoch drawn again", flat[-1], flat[0])
        if examples > 8:
            orders = {tuple(order) for order in flat}
            check.same(f"number of orders in {len(EPOCHS)} epochs", len(orders), len(EPOCHS))
            if "checkpoint" in subject.capabilities:
                folder = tmp_path / str(examples)
                folder.mkdir()
                subject.save(folder)
                subject.start(case, params, n)
                subject.restore(folder)
                for number in EPOCHS[::-1]:
                    again = epoch(check, subject, examples, size, number)
                    check.same(f"order of epoch {number} after a restart", again, flat[number])


def epoch(check: Check, subject: TrainerUnderTest, examples: int, size: int, number: int) -> list[int]:
    """The examples of an epoch in order, after a check that each is there once, in batches of `size`."""
    batches = subject.epoch(examples, size, number)
    order = [int(i) for batch in batches for i in batch]
    what = f"examples of epoch {number}, {examples} in batches of {size}"
    missing = sorted({*range(examples)} - {*order})
    twice = sorted(example for example, times in collections.Counter(order).items() if times > 1)
    words = "".join(f", {how} {len(some)}: {some}" for how, some in (("without", missing), ("twice", twice)) if some)
    check.same(f"{what}{words}", sorted(order), list(range(examples)))
    # Which batch is the partial one is the trainer's choice.
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    check.same(f"sizes of {what}", sizes, [min(size, examples - k) for k in range(0, examples, size)])
    return order


@law("training.resume", claims=("checkpoint",))
def test_resume(check: Check, subject: TrainerUnderTest, n: int, tmp_path: Path) -> None:
    """Compares a run restored after two of four updates, bit for bit, with one that never stopped."""
    compare_resumed(check, subject, n, n, tmp_path, exact=True)


@law("training.resume_elsewhere", claims=("checkpoint", "devices"))
def test_resume_elsewhere(check: Check, subject: TrainerUnderTest, n: int, tmp_path: Path) -> None:
    """Compares a run that is saved on all devices and continued on fewer with the oracle's, within rounding."""
    later = 3 if n > 3 and divides(subject, 3) else 1
    compare_resumed(check, subject, n, later, tmp_path, exact=False)


def compare_resumed(check: Check, subject: TrainerUnderTest, n: int, later: int, folder: Path, *, exact: bool) -> None:
    """Save after two updates on n devices, restore on `later` devices, take two more; compare with an unbroken run."""
    rng = np.random.default_rng((check.seed, n, later))
    case, params, batch = draw_case(subject, rng)
    batches = [rows_of(batch, rng.permutation(len(batch.weights))) for _ in range(4)]
    losses_of(subject, case, params, batches[:2], n)
    subject.save(folder)
    losses = [subject.step(one).loss for one in batches[2:]]
    ends = {name: np.array(leaf) for name, leaf in subject.params().items()}
    # The second run starts from other parameters, so that only the checkpoint can restore the saved ones.
    subject.start(case, {name: leaf * 0.5 for name, leaf in params.items()}, later)
    subject.restore(folder)
    resumed = [subject.step(one).loss for one in batches[2:]]
    if exact:
        check.same("losses after the restart", resumed, losses)
        check_same_bits(check, f"after a restart on {later} devices, {{}}", subject.params(), ends)
    what, want = f"restarted on {later} of {n} devices,", walk(case, params, batches).distance
    check_distance(check, what, case, params, subject.params(), want)
