"""A trainer's wrong result, and the oracle's -> what they have to do with each other, in words."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ...adapter import HostBatch
from ...core.comparison import Bound, distance
from ..model import Array, Params
from ..sharded import rounded
from .replay import Log, Seen

# The most leaves that are named.
MOST_NAMED = 3
NARROW = ("bfloat16", "float16")


def measured(log: Log, got: Seen, want: Seen, limits: dict[str, Bound]) -> list[str]:
    """Sentences about the first result that is out of its bounds: which leaves, which rows, which factor."""
    bad = [name for name, leaf in want.value.items() if not distance(got.value[name], leaf, 1.0) <= limits[name].value]
    words = list(_leaves(got, want, bad))
    factor = _factor(got.value, want.value, limits)
    if factor is not None:
        words.append(f"{got.what}: {factor:.7g} times the oracle's{' in every leaf' if len(want.value) > 1 else ''}")
    kept = log.points()[max(log.points())] if got.kind == "distance" else got.value
    for kind in NARROW:
        if all(np.array_equal(rounded(leaf, kind), leaf) for leaf in kept.values()) and got.kind not in (
            "loss",
            "rate",
        ):
            words.append(f"{got.what}: every number is one of {kind}")
            break
    if got.kind == "logits":
        words += _rows(log, got.value["logits"], want.value["logits"], limits["logits"].value)
    return words


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _leaves(got: Seen, want: Seen, bad: list[str]) -> Iterator[str]:
    """Which leaves are wrong, and which of them are zero or no numbers."""
    broken = [name for name in bad if not np.isfinite(got.value[name]).all()]
    still = [name for name in bad if not got.value[name].any()]
    if len(want.value) > 1:
        which = (
            "all leaves" if len(bad) == len(want.value) else f"{len(bad)} of {len(want.value)} leaves, {_named(bad)}"
        )
        yield f"{got.what}: wrong in {which}"
    if broken:
        yield f"{got.what}: NaN or infinity in {_named(broken)}"
    elif still:
        yield f"{got.what}: {_named(still)} {'did not move' if got.kind == 'distance' else 'zero'}"


def _factor(got: Params, want: Params, limits: dict[str, Bound]) -> float | None:
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
    gaps = np.linalg.norm(got - want, axis=1)
    wrong = ~(gaps <= bound)
    if wrong.all() or not wrong.any() or len(real) != len(wrong):
        return
    yield f"{wrong.sum()} of {len(wrong)} rows of the logits are wrong: {real[wrong].tolist()}"
    for what, has in _properties(batch, real, log.n).items():
        if np.array_equal(has, wrong) and wrong.sum() > 1:
            yield f"these are the rows {what}"


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
