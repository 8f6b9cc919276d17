"""The settings of a run and their values; `settings.csv` has the combinations that each level tries.

The rows of the table are a covering array: those of level `standard` contain every pair of values of two settings,
those of `full` every triple. `tests/studies/covering.py` makes them with covertable.
"""

import csv
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapter import Case, HostBatch, TrainerUnderTest, fixed_of
from .cases import MAIN, NO_DROPOUT, B, L, start_params
from .draws import Rng, batch_of, possible, seeded_case
from .model import value_and_gradient
from .tape import Params
from .updates import OracleTrainer, norm_of

Row = Mapping[str, str]  # setting -> value

# Setting -> its values. The first one is what a trainer does that claims nothing.
VALUES: dict[str, tuple[str, ...]] = {
    "labels": ("3 labels", "2 labels", "regression"),
    "precision": ("float32", "float64", "bfloat16"),
    "clipping": ("no clipping", "some updates clipped", "all updates clipped"),
    "devices": ("one device", "all devices", "fewer devices"),
    "accumulation": ("one batch", "two micro-batches"),
    "packing": ("padded rows", "packed rows"),
    "dropout": ("no dropout", "dropout"),
    "weights": ("equal weights", "unequal weights"),
    "epsilon": ("small epsilon", "large epsilon"),
    "rows": ("full batches", "ragged batches"),
    "tokens": ("short rows", "long rows"),
    "restart": ("no restart", "restart"),
    "gradients": ("updates only", "gradients too"),
}
# Setting -> the capability that all its values but the first need; a value may have one of its own.
NEEDS = {
    "float64": "precision:float64", "bfloat16": "precision:bf16", "devices": "devices",
    "accumulation": "accumulation", "packing": "packing", "dropout": "dropout", "weights": "weights",
    "rows": "padding rows", "restart": "checkpoint", "gradients": "gradients",
}  # fmt: skip
# Examples of a batch, and the most tokens of an example: no two sizes of a batch or of the model are equal, so that
# swapped axes do not fit. Long rows are longer than the blocks in which some trainers compute attention.
SIZES = {"short rows": (24, L), "long rows": (8, 72)}
# Updates 0 to 5 of the schedule, and one past its end.
TOTAL, WARMUP, UPDATES = 6, 2, 7
# The row of the case that most laws use, whose programs are compiled already.
USUAL = dict(
    zip(
        VALUES,
        (
            "3 labels", "float32", "all updates clipped", "all devices", "one batch", "padded rows", "dropout",
            "unequal weights", "small epsilon", "ragged batches", "short rows", "restart", "gradients too",
        ),
        strict=True,
    )
)  # fmt: skip
# The least epsilon of bfloat16 runs. Products round gradients by about 2e-4, and with an epsilon of 1e-5 Adam takes the
# sign of smaller ones: updates of a right trainer were off by up to 1.4 of their bounds, and are by 0.41 with 1e-3.
BFLOAT16_EPS = 1e-3
# Value -> the fields of `Case` that it sets. A trainer that fixes one of them at another value never has this value.
# With the large epsilon an update is nearly proportional to the moments, so that it shows a gradient's scale, which
# Adam hides otherwise. The learning rate is then such that updates are far larger than the rounding of parameters.
CHOSEN = math.nan  # a limit that depends on the run's gradients: see `clip_norm`
FIELDS: dict[str, dict[str, Any]] = {
    "3 labels": {"num_labels": 3, "regression": False},
    "2 labels": {"num_labels": 2, "regression": False},
    "regression": {"num_labels": 1, "regression": True},
    "no clipping": {"clip_norm": None},
    "some updates clipped": {"clip_norm": CHOSEN},
    "all updates clipped": {"clip_norm": CHOSEN},
    "two micro-batches": {"accumulate": 2},
    "packed rows": {"pack": True},
    "no dropout": NO_DROPOUT,
    "dropout": {name: getattr(MAIN, name) for name in NO_DROPOUT},
    "equal weights": {"weighted": False},
    "unequal weights": {"weighted": True},
    "small epsilon": {"eps": 1e-5, "learning_rate": 1e-3, "weight_decay": 0.1},
    "large epsilon": {"eps": 1.0, "learning_rate": 0.02, "weight_decay": 0.05},
    **{tokens: {"max_position_embeddings": longest} for tokens, (_, longest) in SIZES.items()},
}


@functools.cache
def table() -> tuple[tuple[str, Row], ...]:
    """The rows of `settings.csv` in its order, each with its lowest level."""
    with Path(__file__).with_name("settings.csv").open(encoding="utf-8", newline="") as file:
        return tuple((row.pop("level"), row) for row in csv.DictReader(file))


def supported(row: Row, subject: TrainerUnderTest) -> dict[str, str]:
    """The row with another value of a setting wherever the trainer does not claim, or cannot have, the row's value.

    That is the first value that the trainer can have. If it can have none, the setting is as the trainer fixes it.
    """
    return {
        setting: next((one for one in (value, *VALUES[setting]) if _has(subject, setting, one)), f"{setting} as fixed")
        for setting, value in row.items()
    }


def _has(subject: TrainerUnderTest, setting: str, value: str) -> bool:
    """Whether a trainer claims what a value of a setting needs, and fixes none of its fields at another value."""
    need = NEEDS.get(value, NEEDS.get(setting))
    if value != VALUES[setting][0] and need not in {None, *subject.capabilities}:
        return False
    fixed, fields = fixed_of(subject), FIELDS.get(value, {})
    if value == "bfloat16" and fixed.get("eps", BFLOAT16_EPS) < BFLOAT16_EPS:
        return False
    if "max_position_embeddings" in fixed and "max_position_embeddings" in fields:
        return bool(fixed["max_position_embeddings"] >= fields["max_position_embeddings"])
    return all(fixed[name] == wanted for name, wanted in fields.items() if name in fixed)


def devices_of(row: Row, subject: TrainerUnderTest, n: int) -> int:
    """How many of n devices the run uses: `fewer` does not divide the examples, if the trainer claims padding rows.

    It is no power of two if possible: some sums over devices are right for powers of two only.
    """
    rows = SIZES[row["tokens"]][0]
    # The batches of such a trainer have one row less: see `run_of`.
    fewer = _unlike([count for count in range(2, min(n, 6)) if (rows - 1) % count])
    if "padding rows" not in subject.capabilities:
        # They divide the examples of each micro-batch.
        rows //= FIELDS.get(row["accumulation"], {}).get("accumulate", 1)
        fewer = _unlike([count for count in range(2, n) if rows % count == 0])
        n = math.gcd(n, rows)
    return {"one device": 1, "all devices": n, "fewer devices": fewer}[row["devices"]]


def _unlike(counts: Sequence[int]) -> int:
    """The largest number that is no power of two; the largest one if all are, and 1 if there is none."""
    return max(counts, key=lambda count: (count & (count - 1) > 0, count), default=1)


def run_of(row: Row, subject: TrainerUnderTest, rng: Rng) -> tuple[Case, Params, list[HostBatch]]:
    """The case, start parameters and a batch for each of `UPDATES` updates of a row, with drawn values."""
    usual = row == supported(USUAL, subject)
    case = seeded_case(subject, rng) if usual else _case_of(row, subject, rng)
    rows, longest = (B, L) if usual else SIZES[row["tokens"]]
    if not usual and case.padding_rows:
        rows -= 1  # a prime, so that some rows are left over on any number of devices and micro-batches
    params = start_params(case, rng)
    batches = []
    for update in range(UPDATES):
        real = rows if row["rows"] == "full batches" else int(rng.integers(1, rows))
        # Of packed batches, every second one has examples so short that two always fit into a row.
        most = longest // 2 if case.pack and update % 2 == 0 else longest
        batches.append(batch_of(case, rng, rows=rows, real=real, longest=most, columns=longest))
    if not usual and "clip_norm" not in fixed_of(subject):
        case = dataclasses.replace(case, clip_norm=clip_norm(row["clipping"], case, params, batches))
    return case, params, batches


def _case_of(row: Row, subject: TrainerUnderTest, rng: Rng) -> Case:
    """The small case of a row, without clipping; fields that the trainer fixes keep their values."""
    changes: dict[str, Any] = {"precision": row["precision"], "b1": 0.8, "b2": 0.95}
    for value in row.values():
        changes |= FIELDS.get(value, {})
    changes |= {"clip_norm": None, "layer_norm_eps": MAIN.layer_norm_eps}
    if row["precision"] == "bfloat16":
        changes["eps"] = max(changes.get("eps", BFLOAT16_EPS), BFLOAT16_EPS)
    fixed = fixed_of(subject).keys()
    for together in ({"total_steps": TOTAL, "warmup_steps": WARMUP}, {"hidden_size": 16, "num_attention_heads": 8}):
        changes |= {} if together.keys() & fixed else together
    return seeded_case(subject, rng, small=True, **possible(subject, changes))


def clip_norm(clipping: str, case: Case, params: Params, batches: Sequence[HostBatch]) -> float | None:
    """A limit that clips none, some or all updates of a run."""
    if clipping == "no clipping":
        return None
    # The limit changes the run, and with it the norms; so the second limit is chosen in a run with the first.
    limit = _limit(clipping, [norm_of(value_and_gradient(case, params, batch).gradients) for batch in batches])
    run = OracleTrainer.start(dataclasses.replace(case, clip_norm=limit), params)
    norms = []
    for step, batch in enumerate(batches):
        norms.append(norm_of(value_and_gradient(case, run.params, batch, step).gradients))
        run.step(batch)
    return _limit(clipping, norms)


def _limit(clipping: str, norms: Sequence[float]) -> float:
    """A quarter of the smallest norm, or the middle of the widest gap between two of the norms."""
    ordered = sorted(norms)
    if clipping == "all updates clipped":
        return float(f"{ordered[0] / 4:.3g}")
    below, above = max(itertools.pairwise(ordered), key=lambda pair: pair[1] / pair[0])
    return float(f"{math.sqrt(below * above):.3g}")
