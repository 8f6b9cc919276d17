"""Predictions, labels and a wrong score -> what the score is, if it is a known mistake."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Classes = npt.NDArray[np.integer]
# A score is a mistake's if it differs from it by at most this; scores of few examples are far apart.
NEAR = 1e-9
# The same for sums of weights, which a trainer adds up in float32: 2^-24 for each of about a hundred additions.
NEAR_IN_FLOAT32 = 1e-5


def f1(predicted: Classes, labels: Classes, of: int = 1) -> float:
    """2 TP / (2 TP + FP + FN) of a class; 0 if it is neither predicted nor there."""
    spread = int((predicted == of).sum() + (labels == of).sum())
    return 2 * int(((predicted == of) & (labels == of)).sum()) / spread if spread else 0.0


def accuracy(predicted: Classes, labels: Classes) -> float:
    """The share of predictions that are right."""
    return float((predicted == labels).mean())


def _ratio(hits: int, of: int) -> float:
    return hits / of if of else 0.0


def _by_weight(predicted: Classes, labels: Classes, weights: npt.NDArray[np.floating]) -> dict[str, float]:
    """Both scores if an example of weight w counts w times."""
    w, hit = weights.astype(np.float64), predicted == labels
    spread = float(w @ (predicted == 1) + w @ (labels == 1))
    return {"accuracy": float(w @ hit / w.sum()), "f1": 2 * float(w @ (hit & (labels == 1))) / (spread or 1.0)}


def mistaken(
    score: Mapping[str, float], batches: Sequence[tuple[Classes, Classes, npt.NDArray[np.floating]]]
) -> list[str]:
    """Sentences about wrong scores: each names the mistakes that give the same number.

    `batches` has predictions, labels and weights, [B] each; rows of weight above 0 count once.
    """
    kept = [(predicted[weights > 0], labels[weights > 0]) for predicted, labels, weights in batches]
    p, y = (np.concatenate([pair[k] for pair in kept]) for k in (0, 1))
    whole = [np.concatenate([batch[k] for batch in batches]) for k in (0, 1)]
    by_weight = _by_weight(whole[0], whole[1], np.concatenate([weights for _, _, weights in batches]))
    hits = int(((p == 1) & (y == 1)).sum())
    shares = [f1(p, y, c) for c in (0, 1)]
    counts = [int((y == c).sum()) for c in (0, 1)]
    right: dict[str, Callable[[Classes, Classes], float]] = {"accuracy": accuracy, "f1": f1}
    # Both scores of most of the examples seldom are those of another part.
    first = [
        k for k in range(len(y) // 2 + 1, len(y))
        if all(abs(float(score[name]) - of(p[:k], y[:k])) <= NEAR for name, of in right.items())
    ]  # fmt: skip
    sentences = []
    for name, of in right.items():
        got, want = float(score[name]), of(p, y)
        if abs(got - want) <= NEAR:
            continue
        known = {
            "the mean of the batches' values": float(np.mean([of(*pair) for pair in kept])),
            "the value with padding rows counted": of(*whole),
            "the value without the last batch": of(*(np.concatenate([pair[k] for pair in kept[:-1]]) for k in (0, 1)))
            if len(kept) > 1 else math.inf,
            "the value of the last batch alone": of(*kept[-1]),
            "the value of the first batch alone": of(*kept[0]),
            "a percentage": 100 * want,
        }  # fmt: skip
        if first:
            known[f"the value of the first {' or '.join(map(str, first))} of {len(y)} examples"] = got
        if name == "accuracy":
            known |= {
                "F1": f1(p, y),
                "the share of errors": 1 - want,
                "the number of right predictions divided by all rows, padding too": want * len(y) / len(whole[1]),
                "the number of right predictions": want * len(y),
            }
        else:
            precision, recall = _ratio(hits, int((p == 1).sum())), _ratio(hits, int((y == 1).sum()))
            known |= {
                "the accuracy": accuracy(p, y), "F1 of class 0": shares[0],
                "the mean of F1 over both classes": sum(shares) / 2,
                "F1 over both classes by their frequency": float(np.dot(shares, counts)) / len(y),
                "the precision": precision, "the recall": recall,
            }  # fmt: skip
        named = [what for what, value in known.items() if abs(got - value) <= NEAR]
        if abs(got - by_weight[name]) <= NEAR_IN_FLOAT32 < abs(want - by_weight[name]):
            named.append("the value in which each example counts as often as its weight says")
        label = {"accuracy": "accuracy", "f1": "F1"}[name]
        if math.isnan(got):
            sentences.append(f"{label} is NaN, must be {want:.6g}: a division by zero, as if no example were positive")
        elif named:
            sentences.append(f"The reported {label} is {' or '.join(named)}")
        else:
            sentences.append(f"The reported {label} is {got:.6g}, must be {want:.6g}: none of the known mistakes")
    return sentences
