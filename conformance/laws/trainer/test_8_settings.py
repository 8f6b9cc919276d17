"""Rung 8, settings: every observable of a run, in every phase of it, under each row of a covering array."""

import collections
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch, TrainerUnderTest
from ...core.check import Check
from ...oracle import settings
from ...oracle.bounds_measured import Beside, Update, gradient_reference, logits_reference
from ...oracle.draws import with_weights
from ...oracle.tape import Params
from ...oracle.updates import learning_rate
from ..support.compilation import compiled, held, precision
from ..support.running import law
from ..support.trainer_checks import (
    check_distance,
    check_logits,
    check_loss,
    check_rate,
    check_same_bits,
    check_score,
    check_width,
)  # fmt: skip

# The trainer evaluates after every update but this one, and restarts before update RESTARTED in rows with a restart.
NOT_EVALUATED, RESTARTED = 1, 4
# Updates like those before them: neither the first ones, nor after an update without evaluation, nor after a restart.
QUIET = (2, 3)
# The epoch whose order must stay the same through the run: its number, examples and batch size.
EPOCH = (37, 8, 2)
# Settings that a message leaves out.
UNNAMED = ("devices", "restart", "gradients")


@law("training.settings")
def test_settings(check: Check, subject: TrainerUnderTest, n: int, tmp_path: Path) -> None:
    """Compares each update of short runs with the oracle's update from the trainer's own parameters."""
    table = [settings.USUAL, *(row for level, row in settings.table() if check.at(level))]
    rows = [settings.supported(row, subject) for row in table]
    check.facts["rows"] = []
    for row in (row for i, row in enumerate(rows) if row not in rows[:i]):
        number = len(check.facts["rows"])
        check.facts["rows"].append(", ".join(row.values()))
        case, params, batches = settings.run_of(
            row, subject, np.random.default_rng((check.law.stream, check.seed, number))
        )
        folder = tmp_path / str(number)
        folder.mkdir()
        with precision(case):
            Run(check, subject, row, case, settings.devices_of(row, subject, n)).compare(params, batches, folder)


class Run:
    """One run of a trainer beside the oracle."""

    def __init__(self, check: Check, subject: TrainerUnderTest, row: settings.Row, case: Case, n: int) -> None:
        self.check, self.subject, self.row, self.case, self.n = check, subject, row, case, n
        self.held: collections.Counter[Any] = collections.Counter()  # arrays on the devices after a quiet update
        # Values that every run may have need no mention.
        others = [value for name, value in row.items() if value != settings.VALUES[name][0] and name not in UNNAMED]
        self.words = "".join(f", {value}" for value in (*others, f"N = {n}"))

    def compare(self, params: Params, batches: list[HostBatch], folder: Path) -> None:
        """Make an update with each batch, and compare what the trainer gives in each phase."""
        self.subject.start(self.case, params, self.n)
        beside, now = Beside(self.case), self.params()
        self.first_order = self.order()
        self.same("at the start", now, params)
        for step, batch in enumerate(batches):
            phase, want = self.phase(step), beside.update(now, batch)
            if self.row["gradients"] == "gradients too":
                exact = gradient_reference(self.case, now, batch, step)
                what = f"gradient of {phase}{self.words}"
                self.check.tree(what, self.subject.gradients(batch), exact.want, exact.bounds)
            with compiled() as programs:
                result = self.subject.step(batch)
            before, now = now, self.params()
            if "jax" in self.subject.capabilities and step in QUIET and step != self.case.warmup_steps:
                self.check.same(f"compiled by {phase}{self.words}", programs, [])
            self.arrays(step)
            check_loss(self.check, f"loss of {phase}{self.words}", result.loss, want.loss)
            check_rate(self.check, self.case, step, result.learning_rate)
            moving = learning_rate(self.case, step) > 0
            what = f"{phase}{self.words},"
            check_distance(self.check, what, self.case, before, now, want.distance, control=moving)
            self.observe(f"after {phase}", now, want)
            if step != NOT_EVALUATED:
                self.evaluate(f"after {phase}", now, batch)
            if step + 1 == RESTARTED and self.row["restart"] == "restart":
                self.restart(params, now, folder)
                self.observe("right after a restart", now, want)
                self.evaluate("right after a restart", now, batch)
        if self.case.precision == "bfloat16" and "moments" in self.subject.capabilities:
            check_width(self.check, self.subject.moments())

    def arrays(self, step: int) -> None:
        """Check that no more arrays are on the devices after one quiet update than after the one before it.

        A trainer that frees its arrays one or two updates late has equally many each time.
        """
        if "jax" not in self.subject.capabilities or step not in QUIET:
            return
        now = held(collected=False)
        if step != QUIET[0]:
            # Garbage is collected only where it can be what is too much, since that takes long.
            now = held() if now - self.held else now
            more = [f"{count} {dtype}{list(shape)}" for (shape, dtype, _), count in (now - self.held).items()]
            self.check.same(f"arrays that an update leaves on the devices{self.words}", more, [])
        self.held = now

    def phase(self, step: int) -> str:
        """What is special about an update of the run."""
        if step >= self.case.total_steps - 1:
            return "the last update" if step < self.case.total_steps else "an update past the end"
        if step == RESTARTED and self.row["restart"] == "restart":
            return "the update after a restart"
        if step == self.case.warmup_steps:
            return "the update after the warm-up"
        if step > NOT_EVALUATED + 1:
            return "an update after an evaluation"
        return "a later update" if step else "the first update"

    def params(self) -> Params:
        """A copy of the trainer's parameters in float64."""
        return {name: np.array(leaf, np.float64) for name, leaf in self.subject.params().items()}

    def same(self, where: str, got: Arrays, want: Params) -> None:
        """Check that parameters have the values of `want`."""
        wide = {name: np.asarray(leaf, np.float64) for name, leaf in got.items()}
        check_same_bits(self.check, f"{{}} {where}{self.words}", wide, want)

    def restart(self, params: Params, now: Params, folder: Path) -> None:
        """Save, begin another run, and restore: the parameters must be the saved ones."""
        self.subject.save(folder)
        self.subject.start(self.case, {name: leaf * 0.5 for name, leaf in params.items()}, self.n)
        self.subject.restore(folder)
        self.same("after a restart", self.subject.params(), now)

    def observe(self, when: str, now: Params, want: Update) -> None:
        """Compare Adam's two moments, the parameters of each device, and the order of an epoch."""
        if "moments" in self.subject.capabilities:
            pairs = zip(("first", "second"), self.subject.moments(), (want.first, want.second), strict=True)
            for name, got, moment in pairs:
                self.check.tree(f"{name} moment {when}{self.words}", got, moment.want, moment.bounds)
        if "replicas" in self.subject.capabilities:
            for device, copy in enumerate(self.subject.replicas()):
                self.same(f"on device {device} {when}", copy, now)
        self.check.same(f"order of an epoch {when}{self.words}", self.order(), self.first_order)

    def order(self) -> list[list[int]]:
        """The batches of an epoch, if the trainer shows them."""
        if "data order" not in self.subject.capabilities:
            return []
        return [[int(i) for i in batch] for batch in self.subject.epoch(*EPOCH)]

    def evaluate(self, when: str, now: Params, batch: HostBatch) -> None:
        """Compare the logits with the oracle's at the trainer's parameters, and the scores with their counts."""
        want = logits_reference(self.case, now, batch)
        check_logits(self.check, f"logits {when}{self.words}", self.subject.evaluate(batch), batch, want, ordered=False)
        if "metrics" in self.subject.capabilities and self.case.num_labels == 2:
            plain = with_weights(batch, (batch.weights > 0).astype(np.float32))
            check_score(self.check, f" {when}{self.words}", self.subject, [plain])
