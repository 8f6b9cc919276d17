"""Trainers, devices, layouts, micro-batches -> measured difference of each run from one device with padded rows.

    python tests/support/equality_table.py [--precision float64] [--devices 1 2 8] [--long] [--json FILE]

prints two Markdown tables. Every run has the same examples in the same updates, with dropout. Runs differ in the
trainer, the number of devices N, padded or packed rows, and the number of micro-batches K. Two arrangements of the rows
alternate, because each hides faults that the other shows: `empty` (the last device has no example) and `uneven` (all
devices have examples, but not equally many). Rows without an example have garbage.

Gradients are read from Adam's first moment after an update from zero moments, (1 - b1) g, so they are those that the
optimizer got; another test checks `gradient_step`. Key biases are compared separately: their gradient is rounding noise
(see `helpers.norm`). Adam divides this noise by its root mean square, and so makes visible steps of it, up to full
steps where the noise exceeds Adam's epsilon. The model's output does not depend on them.
A full matrix compiles 80 programs; `XLA_FLAGS=--xla_backend_optimization_level=0` halves the time.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from helpers import (
    LENGTH,
    Arrangement,
    by_example,
    difference,
    model_config,
    norm,
    parameters,
    places,
    precision_scope,
    ragged,
    relative_error,
    spread,
)

from sftref.config import PRECISIONS, OptimConfig, Precision
from sftref.data.batches import Batch, Layout, Update, pad, plan
from sftref.data.packing import pack
from sftref.data.tokens import TokenArrays
from sftref.train.step import Program, TrainState
from sftref.trainers import Trainer, make_trainer

SEED, EXAMPLES, BATCH, TOTAL_STEPS, SLOTS = 2**40 + 5, 71, 21, 60, 4  # SLOTS of a packed row
STEPS = (1, 2, 50)  # the updates after which parameters are compared
# The trainers for several devices, of which `shard_map` needs JAX 0.6.1; and the pairs that are compared.
SEVERAL = ("pmap", "mesh", *(["shard_map"] if hasattr(jax, "shard_map") else []))
PAIRS = (("pmap", "mesh"), ("shard_map", "pmap"), ("shard_map", "single"))


@dataclass(frozen=True)
class Case:
    """A case: N devices, padded or packed rows, K micro-batches."""

    devices: int
    packed: bool
    micro: int

    def __str__(self) -> str:
        return f"{self.devices}-{'packed' if self.packed else 'padded'}-k{self.micro}"


REFERENCE = Case(1, False, 1)
CASES = [Case(*values) for values in itertools.product((1, 2, 3, 4, 8), (False, True), (1, 2, 4))]
LONG = [c for c in CASES if c.devices in (1, 3, 8) and (c.packed, c.micro) in ((True, 1), (False, 2))]


@dataclass
class Course:
    """The results of one trainer, by arrangement, and its parameters, by number of updates."""

    loss: dict[str, float] = field(default_factory=dict)
    gradient: dict[str, Any] = field(default_factory=dict)
    params: dict[int, Any] = field(default_factory=dict)
    state: dict[int, Any] = field(default_factory=dict)  # parameters and moments
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    logits: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Row:
    """One trainer in one case, compared with the reference; errors are relative l2 norms without the key biases."""

    trainer: str
    devices: int
    rows: str
    micro: int
    loss: float
    gradient: float
    key_gradient: float  # norm of the key biases' gradient / norm of the whole gradient
    params: dict[int, float]  # error / distance from the start, by number of updates
    key_params: dict[int, float]  # the key biases' error / that distance
    counts_equal: bool | None  # None with micro-batches, which evaluation does not have
    logits: float | None  # largest difference / largest logit


@dataclass
class Pair:
    """Two trainers compared on the same devices: 0 if all bits are equal, else the error of all leaves."""

    case: str
    trainers: str
    gradient: float
    params: dict[int, float]  # by number of updates, the first one `uneven`; 0 only if Adam's moments are equal too


class Experiment:
    """The data, the initial state and the program of one precision."""

    def __init__(self, precision: Precision, layers: int = 2) -> None:
        model = model_config(num_hidden_layers=layers)
        optim = OptimConfig(learning_rate=1e-3)
        self.precision = precision
        self.tokens: TokenArrays = ragged(EXAMPLES, seed=1)
        self.params = parameters(model, precision=precision, seed=2)
        self.b1 = optim.b1
        with precision_scope(precision):
            self.program = Program.of(model, optim, total_steps=TOTAL_STEPS, dropout="addressed", precision=precision)

    def state(self) -> TrainState:
        """The initial state, on the host."""
        return self.program.state(self.params, SEED)

    def updates(self) -> Iterator[Update]:
        """The updates, each with its examples."""
        return plan(len(self.tokens), BATCH, SEED, drop_last=False)

    def batch(self, update: Update, case: Case, arrangement: Arrangement) -> Batch:
        """The examples of `update` in the static shape of `case`."""
        occupied = BATCH  # enough rows for any update
        if case.packed:
            occupied = max(self._packed(u)[1] for u in itertools.islice(self.updates(), TOTAL_STEPS))
        batch, rows = self._packed(update) if case.packed else (self._padded(update), len(update.examples))
        per_device = -(-occupied // (case.micro * max(1, case.devices - 1)))
        layout = Layout(case.micro, case.devices * per_device, LENGTH, batch.weights.shape[2])
        return spread(batch, places(rows, layout, case.devices, arrangement), layout)

    def _padded(self, update: Update) -> Batch:
        n = len(update.examples)
        return pad(self.tokens, update.examples, Layout(1, n, LENGTH, 1))

    def _packed(self, update: Update) -> tuple[Batch, int]:
        batch = pack(self.tokens, update.examples, Layout(1, 1, LENGTH, SLOTS), 1)
        return batch, batch.weights.shape[1]

    def course(self, trainer: Trainer, case: Case, steps: int = 2) -> Course:
        """Train `steps` updates from the initial state; evaluate the initial state."""
        course = Course()
        updates = list(itertools.islice(self.updates(), steps))
        for arrangement in ("empty", "uneven"):
            batch = self.batch(updates[0], case, arrangement)
            placed, state = trainer.put(batch), trainer.place(self.state())
            if case.micro == 1:
                sums, logits = trainer.eval_step(state, placed)
                course.counts[arrangement] = trainer.read(sums).counts
                course.logits[arrangement] = by_example(
                    trainer.read_logits(logits), batch, self.tokens.example_ids[updates[0].examples]
                )
            state, metrics = trainer.train_step(state, placed)
            course.loss[arrangement] = float(trainer.read(metrics).loss)
            moments = trainer.read(state).opt_state[0].mu
            course.gradient[arrangement] = jax.tree.map(lambda m: np.asarray(m, np.float64) / (1 - self.b1), moments)
        for step in range(1, steps + 1):
            if step > 1:
                arrangement = ("empty", "uneven")[step % 2]
                state, _ = trainer.train_step(state, trainer.put(self.batch(updates[step - 1], case, arrangement)))
            if step in STEPS or step == steps:
                now = trainer.read(state)
                course.params[step], course.state[step] = now.params, (now.params, now.opt_state)
        return course

    @functools.cached_property
    def single(self) -> Trainer:
        """The one-device trainer, which makes the reference."""
        with precision_scope(self.precision):
            return make_trainer("single", self.program, jax.devices()[:1])

    @functools.cached_property
    def reference(self) -> Course:
        """The reference: one device, padded rows, no micro-batches, as many steps as any comparison needs."""
        with precision_scope(self.precision):
            return self.course(self.single, REFERENCE, max(STEPS))

    def compare(self, trainer: str, case: Case, course: Course) -> Row:
        """`course` compared with the reference; each error is the larger one of the two arrangements."""
        want = self.reference
        start = self.params
        walked = {step: norm(difference(want.params[step], start)) for step in want.params}
        logits = [
            float(np.abs(v - want.logits[k]).max() / np.abs(want.logits[k]).max()) for k, v in course.logits.items()
        ]
        return Row(
            trainer=trainer,
            devices=case.devices,
            rows="packed" if case.packed else "padded",
            micro=case.micro,
            loss=max(abs(v / want.loss[k] - 1) for k, v in course.loss.items()),
            gradient=max(relative_error(v, want.gradient[k]) for k, v in course.gradient.items()),
            key_gradient=max(norm(g, key_biases=True) / norm(g) for g in course.gradient.values()),
            params={k: norm(difference(v, want.params[k])) / walked[k] for k, v in course.params.items()},
            key_params={
                k: norm(difference(v, want.params[k]), key_biases=True) / walked[k] for k, v in course.params.items()
            },
            counts_equal=all(np.array_equal(v, want.counts[k]) for k, v in course.counts.items()) if logits else None,
            logits=max(logits) if logits else None,
        )

    def measure(self, case: Case, steps: int = 2) -> tuple[list[Row], list[Pair]]:
        """Compare every trainer with the reference in one case, and the pairs of `PAIRS`."""
        names = (["single"] if case.devices == 1 else []) + list(SEVERAL)
        with precision_scope(self.precision):
            devices = jax.devices()[: case.devices]
            courses = {name: self.course(make_trainer(name, self.program, devices), case, steps) for name in names}
            rows = [self.compare(name, case, course) for name, course in courses.items()]
        return rows, [pair(case, courses, *names) for names in PAIRS if courses.keys() >= set(names)]


def same_bits(a: Any, b: Any) -> bool:
    """Whether all leaves are equal (a NaN is equal to nothing)."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def pair(case: Case, courses: dict[str, Course], first: str, second: str) -> Pair:
    """See `Pair`."""
    one, other = courses[first], courses[second]

    def error(a: Any, b: Any) -> float:  # more than 0 even where only Adam's moments differ
        return max(norm(difference(a, b), key_biases=None) / norm(b), sys.float_info.min)

    gradients = [(g, other.gradient[k]) for k, g in one.gradient.items()]
    states = {step: same_bits(one.state[step], other.state[step]) for step in one.state}
    return Pair(
        str(case),
        f"{first} against {second}",
        max(0.0 if same_bits(*gs) else error(*gs) for gs in gradients),
        {k: 0.0 if same else error(one.params[k], other.params[k]) for k, same in states.items()},
    )


def markdown(rows: list[Row], pairs: list[Pair]) -> str:
    """The two tables as Markdown."""

    def number(x: float | None) -> str:
        return "-" if x is None else f"{x:.1e}"

    def table(header: list[str], body: list[list[str]]) -> list[str]:
        return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *body)]

    after = [f"{what} after {s}" for s in STEPS for what in ("parameters", "key biases")]
    header = ["trainer", "N", "rows", "K", "loss", "gradient", "key-bias gradient", *after, "counts", "logits"]
    body = []
    for row in rows:
        cells = [row.trainer, str(row.devices), row.rows, str(row.micro)]
        cells += [number(x) for x in (row.loss, row.gradient, row.key_gradient)]
        cells += [number(d.get(s)) for s in STEPS for d in (row.params, row.key_params)]
        counts = {None: "-", True: "equal", False: "DIFFERENT"}[row.counts_equal]
        body.append([*cells, counts, number(row.logits)])
    lines = [*table(header, body), ""]

    def bits(x: float | None) -> str:
        return {0: "bitwise", sys.float_info.min: "but the moments"}.get(x, number(x))

    body = [[p.trainers, p.case, bits(p.gradient), *(bits(p.params.get(s)) for s in STEPS)] for p in pairs]
    header = ["trainers", "N, rows, K", "gradient", *(f"state after {s}" for s in STEPS)]
    return "\n".join([*lines, *table(header, body)])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 3, 4, 8], help="only cases of these numbers")
    parser.add_argument("--long", action="store_true", help="only the cases that are run for many steps")
    parser.add_argument("--steps", type=int, default=2, help="updates of the selected cases")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    experiment = Experiment(args.precision, args.layers)
    rows, pairs = list[Row](), list[Pair]()
    for case in (case for case in (LONG if args.long else CASES) if case.devices in args.devices):
        measured, both = experiment.measure(case, args.steps if case in LONG else 2)
        rows, pairs = rows + measured, pairs + both
        print(case, *measured, both, flush=True, sep="\n    ", file=sys.stderr)
    print(markdown(rows, pairs))
    if args.json:
        tables = {"rows": rows, "pairs": pairs}
        args.json.write_text(json.dumps({k: [dataclasses.asdict(x) for x in v] for k, v in tables.items()}))


if __name__ == "__main__":
    main()
