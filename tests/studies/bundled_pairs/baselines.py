"""The two splits -> the scores of models that know words but no meaning, and statistics, as one dictionary.

Every model is trained on the training split and scored on the validation split. The scores show how badly such features
predict the labels.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

Row = dict[str, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def words(text: str) -> set[str]:
    """The distinct lower-case words.

    Example:
        >>> sorted(words("To him, to her."))
        ['her', 'him', 'to']
    """
    return set(re.findall(r"\w+", text.lower()))


def jaccard(first: str, second: str) -> float:
    """The number of shared distinct words, divided by the number of all distinct words.

    Example:
        >>> jaccard("He is here.", "He was here.")
        0.5
    """
    a, b = words(first), words(second)
    return len(a & b) / len(a | b)


def _adjacent(first: str, second: str) -> float:
    """The Jaccard index of the pairs of adjacent words: an overlap that depends on word order."""
    a, b = (set(itertools.pairwise(text.split())) for text in (first.lower(), second.lower()))
    return len(a & b) / max(1, len(a | b))


def _columns(rows: Sequence[Row], vectorizer: Any) -> dict[str, Any]:
    """The feature matrices of one split, by the name of the kind of feature."""
    first, second = (vectorizer.transform([row[key] for row in rows]) for key in ("question1", "question2"))
    cosine = np.asarray(first.multiply(second).sum(axis=1)).ravel()
    overlap = np.array([jaccard(row["question1"], row["question2"]) for row in rows])
    lengths = np.array([[len(row[key].split()) for key in ("question1", "question2")] for row in rows], float)
    order = [_adjacent(row["question1"], row["question2"]) for row in rows]
    chars = np.array([[len(row[key]) for key in ("question1", "question2")] for row in rows], float)
    apart = [abs(table[:, 0] - table[:, 1]) for table in (lengths, chars)]
    codes = sorted({row[key].split()[0] for row in rows for key in ("source1", "source2")})
    style = [[row[key].startswith(code) for key in ("source1", "source2") for code in codes] for row in rows]
    return {
        "jaccard": overlap[:, None],
        "order": np.array(order)[:, None],
        "overlap": np.column_stack([cosine, overlap, lengths, apart[0]]),
        "everything": np.column_stack([cosine, overlap, order, lengths, chars, *apart]),
        "style": np.column_stack([np.array(style, float), lengths, chars, *apart]),
        "words": sp.hstack([first, second], format="csr"),
        "word_differences": sp.hstack([abs(first - second), first.multiply(second)], format="csr"),
        "cosine": cosine,
    }


# Baseline -> its features and its model. Settings that are not given here are scikit-learn's defaults.
BASELINES: dict[str, tuple[str, str]] = {
    "jaccard_threshold": ("jaccard", "tree1"),
    "overlap_and_lengths_logistic": ("overlap", "logistic"),
    "overlap_and_lengths_tree": ("overlap", "tree4"),
    "translations_and_lengths_logistic": ("style", "logistic"),
    "translations_and_lengths_tree": ("style", "tree4"),
    "word_order_threshold": ("order", "tree1"),
    "overlap_order_and_lengths_boosted": ("everything", "boosted"),
    "words_logistic": ("words", "logistic"),
    "word_differences_logistic": ("word_differences", "logistic"),
}


def _model(name: str) -> Any:
    if name == "logistic":
        return LogisticRegression(max_iter=2000)  # enough to converge on all of these
    if name == "boosted":
        return GradientBoostingClassifier(random_state=0)
    return DecisionTreeClassifier(max_depth=int(name.removeprefix("tree")), random_state=0)


def _summary(rows: Sequence[Row], columns: dict[str, Any]) -> dict[str, Any]:
    labels = np.array([row["label"] for row in rows])
    lengths = np.array([len(row[key].split()) for row in rows for key in ("question1", "question2")])
    translations = Counter(f"{row['source1'].split()[0]}-{row['source2'].split()[0]}" for row in rows)

    def by_class(values: Floats) -> list[float]:
        return [round(float(values[labels == label].mean()), 3) for label in (0, 1)]

    return {
        "pairs": len(rows),
        "paraphrases": int(labels.sum()),
        "words": {
            "mean": round(float(lengths.mean()), 1),
            "min": int(lengths.min()),
            "median": int(np.median(lengths)),
            "p95": int(np.quantile(lengths, 0.95, method="lower")),
            "max": int(lengths.max()),
        },
        "jaccard_by_class": by_class(columns["jaccard"].ravel()),
        "cosine_by_class": by_class(columns["cosine"]),
        "books": len({row["source1"].split(" ", 1)[1].rsplit(" ", 1)[0] for row in rows}),
        "translations": dict(sorted(translations.items())),
    }


def measure(splits: dict[str, list[Row]]) -> dict[str, Any]:
    """Sizes, lengths, overlaps and the accuracy of each baseline on validation."""
    texts = [row[key] for row in splits["train"] for key in ("question1", "question2")]
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(texts)
    columns = {name: _columns(rows, vectorizer) for name, rows in splits.items()}
    labels = {name: np.array([row["label"] for row in rows]) for name, rows in splits.items()}
    majority = max(labels["validation"].mean(), 1 - labels["validation"].mean())
    accuracy = {"majority": round(float(majority), 3)}
    for name, (family, model) in BASELINES.items():
        fitted = _model(model).fit(columns["train"][family], labels["train"])
        accuracy[name] = round(float(fitted.score(columns["validation"][family], labels["validation"])), 3)
    summary = {name: _summary(rows, columns[name]) for name, rows in splits.items()}
    return {"splits": summary, "validation_accuracy": accuracy}
