"""All candidate pairs -> the pool to select from: each pair with its bin, and with the scores of bag-of-words judges.

A judge is a ridge regression on each word's weight in a pair and its difference between the two sides, fitted on other
books than those that it scores. A second judge is fitted to pairs that the first cannot tell apart, and so on. The
selection gives both classes equal scores of all judges.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from bundled_pairs.candidates import SCALE, VALIDATION_BOOKS, Corpus, Ints, Pairs

BIN = SCALE // 20  # the width of a bin of cosine or Jaccard: 0.05
NEGATIVES = 200  # the most non-paraphrases per paraphrase of a bin that are kept, to limit memory
FOLDS = 4  # folds of whole books; with two, the second judge learns what distinguishes the first judge's halves
RIDGE = 30.0  # of 3, 10, 30, 100: within 0.5 % of the best on the validation books, and least overfitted
ITERATIONS = 40  # of conjugate gradients; a judge's solution must be reproducible, not exact

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Pool(NamedTuple):
    """Columns of the candidate pairs of all translations.

    Attributes:
        codes: (translation, translation) of each pair.
        a, b: rows of the corpus.
        text_a, text_b: a number for each distinct sentence; two translations may share a sentence.
        label: 1 = paraphrase.
        cell: the bin: equal for pairs of the same translations, cosine and Jaccard.
        length: the number of words of side 1 minus that of side 2.
        judged: the judges' scores, [pairs, judges], in units of 1/`SCALE` of each judge's standard deviation.
        features: the bag-of-words features, [pairs, features], sparse integers.
        book: the book's number.
        random: a random number for each pair.
        held: whether the pair is of a validation book.
    """

    codes: list[tuple[str, str]]
    a: Ints
    b: Ints
    text_a: Ints
    text_b: Ints
    label: Ints
    cell: Ints
    length: Ints
    judged: Ints
    features: Any
    book: Ints
    held: Ints
    random: Any


def mix(seed: int, *columns: Ints) -> Any:
    """A reproducible random 64-bit number per row (splitmix64 of the columns): the same on every machine.

    Example:
        >>> int(mix(0, np.array([1]))[0]) == int(mix(0, np.array([1, 2]))[0])
        True
    """
    state = np.full(len(columns[0]), seed, np.uint64)
    for column in columns:
        state = (state ^ column.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def build(pairs: Sequence[Pairs], corpus: Corpus, seed: int) -> Pool:
    """Thin out the candidates, then compute features and judges' scores."""
    cells, randoms = [], []
    for n, part in enumerate(pairs):
        held = np.isin(part.book, list(VALIDATION_BOOKS))
        cell = ((n * 2 + held) * 100 + part.cosine // BIN) * 100 + part.jaccard // BIN
        random = mix(seed, np.full(len(part), n, np.int64), part.a, part.b)
        keep = _thin(cell, part.label, random)
        randoms.append(random[keep])
        part.take(keep)
        cells.append(cell[keep])
        print(f"  {part.x}-{part.y}: {int(part.label.sum())} paraphrases, {len(part) - int(part.label.sum())} others")
    features = sp.vstack([part.describe(corpus).astype(np.float32) for part in pairs], format="csr")
    book, label = np.concatenate([part.book for part in pairs]), np.concatenate([part.label for part in pairs])
    cell = np.concatenate(cells)
    pool = Pool(
        codes=[(part.x, part.y) for part in pairs for _ in range(len(part))],
        a=np.concatenate([part.a for part in pairs]),
        b=np.concatenate([part.b for part in pairs]),
        text_a=np.concatenate([corpus.text_id[part.x][part.a] for part in pairs]),
        text_b=np.concatenate([corpus.text_id[part.y][part.b] for part in pairs]),
        label=label,
        cell=cell,
        length=np.concatenate([corpus.n_words[part.x][part.a] - corpus.n_words[part.y][part.b] for part in pairs]),
        judged=np.empty((len(label), 0), np.int64),
        features=features,
        book=book,
        held=np.isin(book, list(VALIDATION_BOOKS)).astype(np.int64),
        random=np.concatenate(randoms),
    )
    return judge(pool, np.arange(len(label)))


def _thin(cell: Ints, label: Ints, random: Any) -> Ints:
    """Ascending rows of paraphrases, and of at most `NEGATIVES` others per paraphrase, in cells with both classes."""
    size = int(cell.max()) + 1
    positive = np.bincount(cell[label == 1], minlength=size)
    negative = np.bincount(cell[label == 0], minlength=size)
    others = np.flatnonzero((label == 0) & (positive[cell] > 0))
    others = others[np.lexsort((random[others], cell[others]))]
    first = np.searchsorted(cell[others], cell[others])  # where each row's cell begins
    others = others[np.arange(len(others)) - first < NEGATIVES * positive[cell[others]]]
    return np.sort(np.concatenate([np.flatnonzero((label == 1) & (negative[cell] > 0)), others]))


def judge(pool: Pool, rows: Ints) -> Pool:
    """The pool with the scores of one more judge, fitted to `rows` (of training books), balanced in each cell."""
    design = sp.hstack([pool.features / SCALE, np.ones((len(pool.label), 1))], format="csr", dtype=np.float32)
    held, fold, every = pool.held == 1, pool.book % FOLDS, np.arange(len(pool.label))
    target = 2.0 * pool.label - 1.0
    rows = rows[~held[rows]]
    weight = _balance(pool.cell[rows], pool.label[rows])
    rows, weight = rows[weight > 0], weight[weight > 0]
    scores = []
    for number in range(FOLDS):
        seen = fold[rows] != number
        scores.append(design @ _ridge(design[rows[seen]], target[rows[seen]], weight[seen]))
    score = np.where(held, np.mean(scores, axis=0), np.stack(scores)[fold, every])
    right = float(weight @ ((score[rows] > 0) == (pool.label[rows] == 1)) / weight.sum())
    print(f"  judge {pool.judged.shape[1] + 1}: right on {right:.3f} of books it has not seen", flush=True)
    # Scores are in units of the judge's own spread, so that one caliper fits all judges.
    spread = math.sqrt(_dot(score[rows], score[rows]) / len(rows))
    units = np.rint(score * (SCALE / spread)).astype(np.int64)
    return pool._replace(judged=np.concatenate([pool.judged, units[:, None]], axis=1))


def _balance(strata: Ints, label: Ints) -> Floats:
    """A weight per row that gives both classes the same total in each stratum: the size of the smaller class."""
    size = int(strata.max()) + 1
    counts = np.stack([np.bincount(strata[label == c], minlength=size) for c in (0, 1)])
    smaller = counts.min(axis=0)
    return np.asarray(smaller[strata] / np.maximum(counts[label, strata], 1), np.float64)


def _dot(left: Floats, right: Floats) -> float:
    """The scalar product, summed exactly, because the order in which a BLAS adds depends on the machine."""
    return math.fsum((left * right).tolist())


def _ridge(design: Any, target: Floats, weight: Floats) -> Floats:
    """argmin_w sum(weight * (design @ w - target)^2) + RIDGE * |w|^2, by conjugate gradients from zero."""
    transposed = design.T.tocsr()
    solution = np.zeros(design.shape[1])
    residual = transposed @ (weight * target)
    direction, size = residual.copy(), _dot(residual, residual)
    for _ in range(ITERATIONS):
        image = transposed @ (weight * (design @ direction)) + RIDGE * direction
        step = size / _dot(direction, image)
        solution += step * direction
        residual -= step * image
        size, previous = _dot(residual, residual), size
        direction = residual + size / previous * direction
    return solution
