"""Rung 9: laws whose devices belong to several processes of this machine, joined by `jax.distributed`.

These devices are simulated on every machine: an accelerator belongs to one process at a time, and this process has it.
"""

import collections
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import TrainerUnderTest, fixed_of
from ...core.check import Check, LawBroken, NotRun
from ...core.comparison import Bound
from ...core.settings import Settings
from ...machine.meshes import coded
from ...oracle.bounds_measured import walk
from ...oracle.draws import Rng, batch_of, divides, draw_case, rows_of
from ...workers.channel import NoAnswer
from ..support import call
from ..support.guarded import Guarded
from ..support.messages import AXES, expected, groups
from ..support.process_group import SOON, Across, Layout, Ranks, layouts, shared, unlike
from ..support.rank import HEARTBEAT
from ..support.running import at_level, law, losses_of
from ..support.trainer_checks import check_distance, check_evaluation, check_gradients, check_updates
from . import test_7_equivalence as equal
from . import test_7_invariance as seven
from . import test_8_training as eight

KIB, MIB = 1024, 1024 * 1024
# Bytes of a message. A reduce-scatter of 4 MiB over gloo was wrong: https://github.com/jax-ml/jax/issues/40830.
SIZES = {"quick": (64, 3 * KIB, 4 * MIB), "standard": (512 * KIB,), "full": (MIB - 64, MIB + 64, 8 * MIB, 16 * MIB)}
OPERATIONS = ("psum", "all_gather", "reduce_scatter", "all_to_all", "ppermute")
# The only size for collectives within one process; rung 2 has checked more sizes.
WITHIN = (3 * KIB,)


def layouts_of(check: Check, settings: Settings) -> list[Layout]:
    """The layouts (processes x devices) of this run; after a failure, no simplified variants are run."""
    check.narrows, check.facts["platform"] = False, "cpu"
    return layouts(settings.processes or (4 if check.at("full") else 2))


def across(check: Check, subject: TrainerUnderTest, adapter: str, layout: Layout) -> Any:
    """An `Across`: the trainer in the processes of a layout, which compile as the law's entry says."""
    check.need_capability("processes", subject.capabilities)
    if not divides(subject, layout.n):
        check.need_capability("padding rows", subject.capabilities)
    light = check.law.unoptimized_at(check.level)
    here = Across(shared(layout, adapter, light=light), subject.name, subject.capabilities, fixed_of(subject))
    return Guarded(here, adapter)


def also(check: Check, here: Across, rng: Rng, *functions: Callable[..., None]) -> None:
    """Run laws of other rungs for a trainer in several processes, except those whose capabilities it does not claim."""
    values = {"check": check, "subject": here, "devices": list(range(here.ranks.layout.n)), "rng": rng}
    # Rungs 7 and 8 have checked many values in one process; here the placement is checked.
    check.level = "full" if check.at("full") else "quick"
    for function in functions:
        try:
            call.with_arguments(function, values)
        except NotRun as reason:
            check.facts.setdefault("left_out", []).append(f"{function.__name__}: {reason}")
        except LawBroken as error:
            raise LawBroken(f"{here.ranks.layout} processes x devices: {error}") from error


@law("processes.devices")
def test_devices(check: Check, settings: Settings) -> None:
    """Compares each process's number, own devices and view of all devices."""
    for layout in layouts_of(check, settings):
        views = shared(layout).every("devices")
        for number, seen in enumerate(views):
            who = f"rank {number} of {layout} processes x devices"
            check.same(f"{who}: (process, processes)", (seen["process"], seen["processes"]), (number, layout.processes))
            check.same(f"{who}: devices that it sees", len(seen["all"]), layout.n)
            check.same(f"{who}: devices that are numbered once", len({device for device, _ in seen["all"]}), layout.n)
            check.same(f"{who}: its own devices", seen["own"], [d for d in seen["all"] if d[1] == number])
            check.same(f"{who}: number of its own devices", len(seen["own"]), layout.devices)
            check.same(f"{who}: devices and their processes, as rank 0 has them", seen["all"], views[0]["all"])


@law("processes.collectives")
def test_collectives(check: Check, settings: Settings, rng: Rng) -> None:
    """Compares each collective over all devices, and over groups within and across processes, by size."""
    sizes = at_level(check, SIZES)
    for layout in layouts_of(check, settings):
        ranks, shape = shared(layout), (layout.processes, layout.devices)
        for axes in (AXES, AXES[:1], AXES[1:]):
            if axes == AXES[1:] and layout.devices == 1:
                continue
            for size in WITHIN if axes == AXES[1:] else sizes:
                for kind in (np.float32, np.int32) if size == WITHIN[0] else (np.float32,):
                    count = -(-size // 4 // layout.n) * layout.n
                    data = coded(rng, layout.n, count, np.dtype(kind))
                    for operation in OPERATIONS:
                        answers = ranks.every("collective", operation, axes, data)
                        what = f"{operation} over {' and '.join(axes)}, {data[0].nbytes} B of {data.dtype}, {layout}"
                        places = sorted(place for answer in answers for place in answer)
                        check.same(f"{what}: devices that have a result", places, list(range(layout.n)))
                        got = {place: values for answer in answers for place, values in answer.items()}
                        want = expected(operation, data, groups(shape, axes))
                        check.equal(what, np.stack([got[k] for k in places]), want, control=want + want.dtype.type(1))


@law("processes.lost")
def test_lost(check: Check, settings: Settings) -> None:
    """Kills one process between two updates: the others must neither wait for it forever nor go on without it."""
    layout = layouts_of(check, settings)[-1]
    limit = Bound(SOON, HEARTBEAT, "two heartbeat timeouts of JAX, and the time to notice them")
    for victim in (layout.processes - 1, 0) if check.at("full") else (layout.processes - 1,):
        with Ranks(layout) as ranks:
            data = np.ones((layout.n, 1024), np.float32)
            ranks.every("collective", "psum", AXES, data)
            ranks.send("spin", 10 * SOON)
            time.sleep(0.5)
            ranks.running[victim].process.kill()
            began = time.monotonic()
            answers = ranks.answers(SOON)
            seconds = time.monotonic() - began
        for number in set(range(layout.processes)) - {victim}:
            answer = answers[number]
            who = f"rank {number} after rank {victim} of {layout.processes} was killed"
            check.same(f"{who}: goes on as if nothing had happened", not isinstance(answer, NoAnswer), False)
            check.same(f"{who}: waits for it, {answer.how}", answer.silent, False)
            check.facts.setdefault("told", []).append(f"{number} when {victim} is gone: {answer.how[:200]}")
        check.at_most(f"seconds until the others knew, rank {victim} killed", seconds, limit)


@law("processes.training")
def test_training(check: Check, subject: TrainerUnderTest, adapter: str, settings: Settings, rng: Rng) -> None:
    """Compares gradient, two updates, logits, a whole run and its scores with the oracle's, and between processes."""
    for layout in layouts_of(check, settings):
        here = across(check, subject, adapter, layout)
        case, params, batch = draw_case(subject, rng)
        if "gradients" in subject.capabilities:
            check_gradients(check, here, case, params, batch, layout.n, rows=f"{layout} processes x devices")
        check_updates(check, here, case, params, [batch, batch_of(case, rng)], layout.n)
        check_evaluation(check, here, case, params, batch, layout.n)
        also(check, here, rng, eight.test_fifty_steps, eight.test_evaluation, eight.test_metrics)


@law("processes.agreement")
def test_agreement(check: Check, subject: TrainerUnderTest, adapter: str, settings: Settings, rng: Rng) -> None:
    """Compares programs, parameters and losses between processes, and with a second run, bit for bit."""
    for layout in layouts_of(check, settings):
        ranks = across(check, subject, adapter, layout).ranks
        case, params, batch = draw_case(subject, rng)
        ends = []
        for _ in range(2):
            ranks.every("call", "start", case, params, layout.n)
            losses = [ranks.every("call", "step", one) for one in (batch, batch)]
            ends.append((losses, ranks.every("call", "params")))
        (losses, leaves), again = ends[0], ends[1]
        for number in range(1, layout.processes):
            who = f"rank {number} of {layout} processes x devices"
            for step, answers in enumerate(losses):
                check.same(f"{who}: loss and rate of update {step}", tuple(answers[number]), tuple(answers[0]))
            check.same(f"{who}: parameters that differ from rank 0's", unlike(leaves[number], leaves[0]), None)
        check.same(f"{layout} processes x devices: losses of the same run again", again[0], losses)
        check.same(f"{layout}: parameters that differ in the same run again", unlike(again[1][0], leaves[0]), None)
        if "program" in subject.capabilities:
            texts = [instructions(text) for text in ranks.every("call", "program", batch)]
            check.same(f"{layout}: the program has instructions", len(texts[0]) > 10, True)
            for number, text in enumerate(texts):
                pairs = itertools.zip_longest(text, texts[0])
                odd = [f"{own}, not {other}"[:200] for own, other in pairs if own != other]
                check.same(f"rank {number}: instructions unlike rank 0's, {layout}", odd[:2], [])


def instructions(program: str) -> list[str]:
    """The instructions of HLO text, without their metadata.

    Metadata has source lines of the process that compiled the program; another process may load it from JAX's cache.
    """
    return [re.sub(r", metadata=\{[^}]*\}", "", line) for line in program.splitlines() if " = " in line]


@law("processes.layouts", claims=("gradients",))
def test_layouts(check: Check, subject: TrainerUnderTest, adapter: str, settings: Settings, rng: Rng) -> None:
    """Runs laws of rung 7: unequal and empty shares, order, padding, packing, micro-batches."""
    for layout in layouts_of(check, settings):
        here = across(check, subject, adapter, layout)
        also(check, here, rng, equal.test_layouts, equal.test_loss_is_global, equal.test_float64)
        also(check, here, rng, seven.test_row_order, seven.test_padding, seven.test_packing, seven.test_accumulation)


@law("processes.data", claims=("data order",))
def test_data(check: Check, subject: TrainerUnderTest, adapter: str, settings: Settings, rng: Rng) -> None:
    """Compares the examples that all processes together read with those that a single process reads."""
    for layout in layouts_of(check, settings):
        ranks = across(check, subject, adapter, layout).ranks
        case, params, _ = draw_case(subject, rng)
        ranks.every("call", "start", case, params, layout.n)
        subject.start(case, params, 1)
        for examples, size in ((37, 8), (64, 16), (5, 8)):
            whole = [[int(i) for i in batch] for batch in subject.epoch(examples, size, 1)]
            shares = ranks.every("call", "epoch", examples, size, 1)
            what = f"{examples} examples in batches of {size}, {layout} processes x devices"
            check.same(f"{what}: batches of each process", [len(s) for s in shares], [len(whole)] * layout.processes)
            for number, batch in enumerate(whole):
                read = collections.Counter(int(i) for share in shares for i in share[number])
                check.same(f"{what}: what all read of batch {number}", sorted(read), sorted(batch))
                # Processes that share the computation of a layer read the same rows.
                check.same(f"{what}: each of batch {number} read equally often", len(set(read.values())), 1)
            most = max(len(share[0]) for share in shares)
            check.same(f"{what}: the first batch is shared", most < len(whole[0]), True)


@law("processes.resume", claims=("checkpoint",))
def test_resume(
    check: Check, subject: TrainerUnderTest, adapter: str, settings: Settings, devices: list[Any], rng: Rng,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Saves in several processes; restores in as many, in fewer or more, and in one process with other devices."""
    several, few = layouts_of(check, settings), min(3, len(devices))
    for layout in several:
        here = across(check, subject, adapter, layout)
        case, params, batch = draw_case(subject, rng)
        batches = [rows_of(batch, rng.permutation(len(batch.weights))) for _ in range(4)]
        folder = tmp_path / str(layout).replace(" ", "")
        folder.mkdir()
        losses_of(here, case, params, batches[:2], layout.n)
        here.save(folder)
        saved = {name: np.array(leaf) for name, leaf in here.params().items()}
        want = walk(case, params, batches).distance
        # Other parameters, so that only the checkpoint can restore the saved ones.
        other = {name: leaf * 0.5 for name, leaf in params.items()}
        later = [(across(check, subject, adapter, elsewhere), elsewhere.n, str(elsewhere)) for elsewhere in several]
        for again, n, who in [*later, (subject, few, f"1 x {few}"), (subject, 1, "1 x 1")]:
            again.start(case, other, n)
            again.restore(folder)
            what = f"saved by {layout} and restored by {who} processes x devices"
            check.same(f"{what}: parameters that are not those saved", unlike(dict(again.params()), saved), None)
            for one in batches[2:]:
                again.step(one)
            check_distance(check, f"{what}, after two more updates,", case, params, again.params(), want)
