"""A trainer's wrong result, and the oracle's -> what they have to do with each other, in words."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ...adapter import HostBatch
from ...core.comparison import Bound, distance
from ..bounds_measured import zero_gradients
from ..draws import rows_of
from ..model import example_losses
from ..sharded import ShardedTrainer, rounded
from ..tape import Array, Params
from ..updates import learning_rate
from .replay import MOST_NAMED, Log, Seen, joined, named

NARROW = ("bfloat16", "float16")
# The most learning rates that are listed.
MOST_RATES = 6
WORDS = "bert.embeddings.word_embeddings.weight"
# A target is a label's if each of its parts differs by at most this from 0 or 1, or is that of the batch.
NEAR = 0.02
# A fit of slopes has at least this many numbers for each unknown.
MANY = 4


def measured(log: Log, got: Seen, want: Seen, limits: dict[str, Bound]) -> list[str]:
    """Sentences about the first result that is out of its bounds: which leaves, which rows, which factor."""
    bad = [name for name, leaf in want.value.items() if not distance(got.value[name], leaf, 1.0) <= limits[name].value]
    words = [*_leaves(got, want, bad), *_words(log, got, want, bad, limits), *_decay(got, want, bad, limits)]
    factor = common_factor(got.value, want.value, limits)
    if factor is not None:
        words.append(f"{got.what}: {factor:.7g} times the oracle's{' in every leaf' if len(want.value) > 1 else ''}")
    kept = log.points()[max(log.points())] if got.kind == "distance" else got.value
    numbers = got.kind not in ("loss", "rate") and any(leaf.any() for leaf in kept.values())
    for kind in NARROW if numbers else ():
        if all(np.array_equal(rounded(leaf, kind), leaf) for leaf in kept.values()):
            words.append(f"{got.what}: every number is one of {kind}")
            break
    if got.kind == "logits":
        words += _rows(log, got.value["logits"], want.value["logits"], limits["logits"].value)
    return words


def _leaves(got: Seen, want: Seen, bad: list[str]) -> Iterator[str]:
    """Which leaves are wrong, and which of them are zero or no numbers."""
    broken = [name for name in bad if not np.isfinite(got.value[name]).all()]
    still = [name for name in bad if not got.value[name].any()]
    if len(want.value) > 1:
        which = "all leaves" if len(bad) == len(want.value) else f"{len(bad)} of {len(want.value)} leaves, {named(bad)}"
        yield f"{got.what}: wrong in {which}"
    if broken:
        yield f"{got.what}: NaN or infinity in {named(broken)}"
    elif still:
        yield f"{got.what}: {named(still)} {'did not move' if got.kind == 'distance' else 'zero'}"


def common_factor(got: Params, want: Params, limits: dict[str, Bound]) -> float | None:
    """The number that is got / want in all leaves within their bounds; None if there is none, or if all are zero."""
    g, w = (np.concatenate([np.ravel(side[name]) for name in want]) for side in (got, want))
    size = float(w @ w)
    if not np.isfinite(g).all() or size == 0:
        return None
    factor = float(g @ w) / size
    most = max(abs(factor), 1.0)
    fits = all(distance(got[name], factor * leaf, 1.0) <= most * limits[name].value for name, leaf in want.items())
    return factor if fits and factor and len(w) > 1 else None


def _rows(log: Log, got: Array, want: Array, bound: float) -> Iterator[str]:
    """Which rows of the logits are wrong, and what only they have in common."""
    batch = next((call.batch for call in log.calls if call.method == "evaluate" and call.batch is not None), None)
    if batch is None:
        return
    real = np.flatnonzero(batch.weights > 0)
    if len(real) == len(got):
        yield from _same_rows(real, got, want, bound)
    gaps = np.linalg.norm(got - want, axis=1)
    wrong = ~(gaps <= bound)
    if wrong.all() or not wrong.any() or len(real) != len(wrong):
        return
    yield f"{wrong.sum()} of {len(wrong)} rows of the logits are wrong: {real[wrong].tolist()}"
    for what, has in _properties(batch, real, log.n).items():
        if np.array_equal(has, wrong) and wrong.sum() > 1:
            yield f"these are the rows {what}"


def _same_rows(real: npt.NDArray[np.integer], got: Array, want: Array, bound: float) -> Iterator[str]:
    """Which rows have the same logits, and must not."""
    if not np.isfinite(got).all():
        return
    # The first row that each is within the bound of.
    groups = (np.linalg.norm(got[:, None] - got[None], axis=2) <= bound).argmax(axis=1)
    rows = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    same = [some for some in rows if len(some) > 1 and np.linalg.norm(want[some] - want[some[0]], axis=1).max() > bound]
    if same:
        words = "; ".join(", ".join(map(str, real[some].tolist())) for some in same[:MOST_NAMED])
        yield f"rows of the batch have the same logits, and must not: {words}"


def _decay(got: Seen, want: Seen, bad: list[str], limits: dict[str, Bound]) -> Iterator[str]:
    """Which multiple of the parameters is in a wrong gradient, if nothing else is: a decay, or a term of the loss."""
    if got.kind != "gradient" or not all(np.isfinite(got.value[name]).all() for name in bad):
        return
    gaps = {name: got.value[name] - want.value[name] for name in bad}
    size = sum(float((got.start[name] ** 2).sum()) for name in bad)
    times = sum(float((gap * got.start[name]).sum()) for name, gap in gaps.items()) / size if size else 0.0
    if times and all(
        distance(gap, times * got.start[name], 1.0) <= max(1.0, abs(times)) * limits[name].value
        for name, gap in gaps.items()
    ):
        yield f"{got.what}: where it is wrong, it has {times:.4g} times the parameters besides"


def _words(log: Log, got: Seen, want: Seen, bad: list[str], limits: dict[str, Bound]) -> Iterator[str]:
    """Which words' embeddings are wrong, if only those: the words that the batch of the update has, or all others."""
    if bad != [WORDS] or got.updates == 0 or len(want.value) == 1:
        return
    steps = [call.batch for call in log.calls if call.method == "step" and call.batch is not None]
    batch = steps[got.updates - 1]
    real = (batch.attention_mask > 0) & (batch.weights > 0)[:, None]
    gaps = np.linalg.norm(got.value[WORDS] - want.value[WORDS], axis=1)
    wrong, there = gaps > limits[WORDS].value, np.isin(np.arange(len(gaps)), batch.input_ids[real])
    if wrong.any() and not (wrong & there).any():
        yield f"{got.what}: only words that the batch of update {got.updates - 1} does not have are wrong"
    elif wrong.any() and not (wrong & ~there).any():
        yield f"{got.what}: only words that the batch of update {got.updates - 1} has are wrong"


def places_of_rows(log: Log, want: Array, bound: float) -> tuple[list[int], list[int]] | None:
    """Where the first evaluation's logits have each row of `want`, and where they must be; None if rows are wrong."""
    call = next((call for call in log.calls if call.method == "evaluate" and call.batch is not None), None)
    if call is None or call.batch is None or not np.isfinite(call.result).all():
        return None
    places, real = rows_elsewhere(call.result, want, bound), np.flatnonzero(call.batch.weights > 0).tolist()
    return None if places is None or places == real else (places, real)


def rows_elsewhere(logits: Array, want: Array, bound: float) -> list[int] | None:
    """For each row of `want` [R, C], the row of `logits` [B, C] that it is within the bound; None if one is none."""
    gaps = np.linalg.norm(logits[None] - want[:, None], axis=2)
    return gaps.argmin(axis=1).tolist() if (gaps.min(axis=1) <= bound).all() else None


def _properties(batch: HostBatch, real: npt.NDArray[np.integer], n: int) -> dict[str, npt.NDArray[np.bool_]]:
    lengths = batch.attention_mask.sum(axis=1)[real]
    share = -(-len(batch.weights) // n)
    device = real // share
    return {
        "of odd length": lengths % 2 == 1,
        "of even length": lengths % 2 == 0,
        "without padding": lengths == batch.attention_mask.shape[1],
        "with padding": lengths < batch.attention_mask.shape[1],
        "with an odd index": real % 2 == 1,
        "with an even index": real % 2 == 0,
        "of the last device": device == device.max(),
        "of all devices but the first": device > 0,
        "with a token of id 0": (batch.input_ids == 0).any(axis=1)[real],
    }


def rates(log: Log, some: list[Seen]) -> Iterator[str]:
    """The learning rates that a run reports, and those of the schedule."""
    got = ", ".join(f"{float(one.value['rate']):.4g}" for one in some[:MOST_RATES])
    want = ", ".join(f"{learning_rate(log.case, one.updates):.4g}" for one in some[:MOST_RATES])
    case = log.case
    yield (
        f"the reported learning rates are {got}, the schedule's {want} (peak {case.learning_rate:g}, "
        f"warm-up {case.warmup_steps}, total {case.total_steps})"
    )


def batch_after(log: Log, method: str, updates: int) -> HostBatch | None:
    """The batch of the first call of a method after so many updates."""
    made = 0
    for call in log.calls:
        if call.method == method and made == updates:
            return call.batch
        made += call.method == "step"
    return None


def restored(log: Log) -> Iterator[str]:
    """What a restart changed of the parameters and the moments, as the trainer shows them."""
    methods = [call.method for call in log.calls]
    saved, back = methods.index("save"), methods.index("restore")
    for method in ("params", "moments"):
        before = [call.result for call in log.calls[:saved] if call.method == method]
        after = [call.result for call in log.calls[back:] if call.method == method]
        shown = methods[back + 1 :]
        if not before or not after or "step" in shown[: shown.index(method)]:
            continue
        old, new = (side if method == "moments" else (side,) for side in (before[-1], after[0]))
        pairs = [(name, one[name], two[name]) for one, two in zip(old, new, strict=True) for name in one]
        wrong = [(name, new) for name, old, new in pairs if not np.array_equal(old, new)]
        which = "all leaves" if len(wrong) == len(pairs) else named([name for name, _ in wrong])
        if not wrong:
            yield f"{method}() gives the same before the save and after the restore"
            continue
        kind = next(
            (kind for kind in NARROW if all(np.array_equal(rounded(leaf, kind), leaf) for _, leaf in wrong)), ""
        )
        still = (
            "; these are zero" if not any(leaf.any() for _, leaf in wrong) else f"; these are of {kind}" if kind else ""
        )
        yield f"after the restore {method}() gives other values than before the save, in {which}{still}"


# Slopes of the loss: its derivative by the logits.


def slopes(log: Log, batch: HostBatch, got: Seen, limits: dict[str, Bound]) -> tuple[bool, list[str]] | None:
    """Whether a wrong gradient is that of other slopes of the rows' losses, and sentences about them; None if unknown.

    The gradient is a sum over rows and logits: slope times the gradient of the logit, which is the oracle's if the
    network is. So a least-squares fit shows whether the loss, the labels or the weights are wrong, or the network.
    """
    case, real = log.case, np.flatnonzero(batch.weights > 0)
    outputs = 1 if case.regression else case.num_labels
    zero = zero_gradients(case)
    names = [name for name in limits if name not in zero]
    if not all(np.isfinite(got.value[name]).all() for name in names):
        return None
    if MANY * outputs * len(real) > sum(got.value[name].size for name in names):
        return None
    one = batch._replace(weights=(batch.weights > 0).astype(np.float32))
    columns, right = [], []
    for row in real:
        part = rows_of(one, np.array([row]))
        logits = _logits(log, got, part)
        right.append(example_losses(case, logits, part.labels)[1][0])
        columns += [joined(_gradient(log, got, part, unit), names, limits) for unit in np.eye(outputs)]
    wanted = joined(got.value, names, limits)
    matrix = np.stack(columns, axis=1)
    found, _, rank, _ = np.linalg.lstsq(matrix, wanted, rcond=1e-12)
    if rank < matrix.shape[1] or not np.isfinite(found).all():
        return None
    share = (batch.weights.astype(np.float64) / batch.weights.sum(dtype=np.float64))[real, None]
    mine, exact = found.reshape(len(real), outputs) / share, np.array(right)
    most = max(1.0, float(np.abs(mine).max() / np.abs(exact).max()))
    ends = np.cumsum([got.value[name].size for name in names])[:-1]
    if max(float(np.linalg.norm(part)) for part in np.split(wanted - matrix @ found, ends)) > most:
        return False, []
    return True, list(_about(log, batch, real, mine, exact))


def _oracle(log: Log, got: Seen) -> ShardedTrainer:
    oracle = ShardedTrainer()
    oracle.start(log.case, got.start, 1)
    oracle.t = got.updates
    return oracle


def _logits(log: Log, got: Seen, part: HostBatch) -> Array:
    oracle = _oracle(log, got)
    return oracle.forward(oracle.network(part, oracle.masks(oracle.t)))[0]


def _gradient(log: Log, got: Seen, part: HostBatch, unit: Array) -> Params:
    """The gradient of one logit of one row."""
    oracle = _oracle(log, got)
    oracle.losses = lambda logits, _: (np.zeros(len(logits)), np.tile(unit, (len(logits), 1)))  # type: ignore[assignment, method-assign]
    return oracle.sums(part).gradients


def _about(log: Log, batch: HostBatch, real: npt.NDArray[np.integer], mine: Array, exact: Array) -> Iterator[str]:
    """Which labels the rows have, if their slopes are those of the right loss for other labels; else two slopes."""
    labels = batch.labels[real]
    if not log.case.regression:
        # The slopes of cross-entropy are probabilities minus the target.
        target = exact + np.eye(log.case.num_labels)[labels.astype(int)] - mine
        if (np.minimum(np.abs(target), np.abs(target - 1)) <= NEAR).all() and np.allclose(
            target.sum(axis=1), 1, atol=NEAR
        ):
            other = [f"row {row} has {new}, not {old}" for row, new, old in
                     zip(real, target.argmax(axis=1), labels, strict=True) if new != old]  # fmt: skip
            if other:
                yield f"the gradient is that of other labels: {', '.join(other[: 2 * MOST_NAMED])}"
                return
    apart = np.flatnonzero(~np.isclose(mine, exact, rtol=NEAR, atol=NEAR * np.abs(exact).max()).all(axis=1))
    for i in apart[:2]:
        got, want = (", ".join(f"{value:.3g}" for value in side[i]) for side in (mine, exact))
        label = f"{labels[i]:.4g}" if log.case.regression else f"{labels[i]}"
        yield f"the loss of row {real[i]}, of label {label}, has the derivative [{got}] by the logits, must be [{want}]"
