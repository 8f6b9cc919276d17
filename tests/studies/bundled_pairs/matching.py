"""The pool of candidate pairs -> equally many paraphrases and non-paraphrases, alike to a bag of words.

Pairs are taken as *couples* of a paraphrase and a non-paraphrase from the same bin of (translations, TF-IDF cosine,
Jaccard), close in difference of length and in what each judge says. The couples are chosen so that both classes have
the same sums of all bag-of-words features: then the optimum of a logistic regression on the features is zero. The
method is coordinate descent on the squared length of the difference of these sums, in integers.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bundled_pairs.candidates import SCALE, Corpus, Ints
from bundled_pairs.pool import Pool

MAX_USES = 5  # the most pairs that one verse may be part of
LENGTH_CALIPER = {"train": 2, "validation": 5}  # the most words between a couple's two differences in length
# The most by which a judge's scores of the two pairs may differ, for the first judge and for each later judge.
# Validation has a tenth of the candidates, so the limits are wider there, and the balance must do more.
JUDGE_CALIPERS = {"train": (SCALE // 4, SCALE * 2 // 5), "validation": (SCALE * 2 // 5, SCALE // 2)}
JUDGE_WEIGHT = 4  # the weight of a judge's score in the balance, as of the overlaps; 16 left words too little weight
MAX_CHOICE = 200  # non-paraphrases tried for one paraphrase
SWEEPS = 4  # sweeps of the coordinate descent; after the third the difference hardly falls
CAP = {"train": 1000, "validation": 1000}  # most couples per pair of translations, so that no pair of styles dominates


class Chosen(NamedTuple):
    """One selected pair: (translation, verse id) of each side, and its class."""

    first: tuple[str, int]
    second: tuple[str, int]
    label: int


def rank(seed: int, *address: object) -> int:
    """A reproducible random number for an address: the same on every machine and version.

    Example:
        >>> rank(0, "a") == rank(0, "a") != rank(1, "a")
        True
    """
    return int.from_bytes(hashlib.sha256(repr((seed, *address)).encode()).digest()[:8], "big")


class _Split:
    """The selection of one split: the current difference between the classes, and how often each verse is used."""

    def __init__(self, pool: Pool, name: str, balance: bool) -> None:
        self.pool, self.balance = pool, balance
        rows = np.flatnonzero(pool.held == (name == "validation"))
        self.members: dict[tuple[int, int], Ints] = {}
        order = rows[np.lexsort((pool.random[rows], pool.label[rows], pool.cell[rows]))]
        keys = pool.cell[order] * 2 + pool.label[order]
        for part in np.split(order, np.flatnonzero(np.diff(keys)) + 1):
            self.members[int(pool.cell[part[0]]), int(pool.label[part[0]])] = part
        self.features = pool.features.astype(np.int64)
        self.norms = np.asarray(self.features.multiply(self.features).sum(axis=1), np.int64).ravel()
        self.judged = pool.judged * JUDGE_WEIGHT
        self.length_caliper = LENGTH_CALIPER[name]
        self.calipers = np.array([JUDGE_CALIPERS[name][min(n, 1)] for n in range(pool.judged.shape[1])], np.int64)
        self.difference = np.zeros(self.features.shape[1], np.int64)
        self.opinion = np.zeros(pool.judged.shape[1], np.int64)
        self.uses: Counter[int] = Counter()
        self.taken: set[frozenset[Any]] = set()

    def identity(self, i: int) -> set[frozenset[Any]]:
        """What may be selected only once: a pair of sentences, or a pair of different verses in any translation."""
        a, b = int(self.pool.a[i]), int(self.pool.b[i])
        sentences = frozenset((("text", int(self.pool.text_a[i])), ("text", int(self.pool.text_b[i]))))
        return {sentences, frozenset((a, b))} if a != b else {sentences}

    def change(self, i: int, sign: int) -> None:
        """Select (+1) or deselect (-1) pair i."""
        for verse in {int(self.pool.a[i]), int(self.pool.b[i])}:
            self.uses[verse] += sign
        (self.taken.update if sign > 0 else self.taken.difference_update)(self.identity(i))
        row = slice(self.features.indptr[i], self.features.indptr[i + 1])
        weight = sign if self.pool.label[i] else -sign
        self.difference[self.features.indices[row]] += weight * self.features.data[row]
        self.opinion += weight * self.judged[i]

    def best(self, partner: int, label: int) -> int | None:
        """The pair of class `label`, close to `partner`, that leaves the smallest difference; None if there is none."""
        pool = self.pool
        rows = self.members.get((int(pool.cell[partner]), label), np.empty(0, np.int64))
        rows = rows[abs(pool.length[rows] - pool.length[partner]) <= self.length_caliper]
        rows = rows[(abs(pool.judged[rows] - pool.judged[partner]) <= self.calipers).all(axis=1)]
        free = [
            i
            for i in rows.tolist()
            if self.uses[int(pool.a[i])] < MAX_USES
            and self.uses[int(pool.b[i])] < MAX_USES
            and self.taken.isdisjoint(self.identity(i))
        ]
        if not free:
            return None
        if not self.balance:
            return int(free[0])
        choice = np.array(free[:MAX_CHOICE], np.int64)
        sign = 1 if label else -1
        cost = 2 * sign * (self.features[choice] @ self.difference + self.judged[choice] @ self.opinion)
        return int(choice[np.argmin(cost + self.norms[choice] + (self.judged[choice] ** 2).sum(axis=1))])

    def settle(self, positive: int) -> tuple[int, int] | None:
        """The couple of paraphrase `positive` and its best partner; None if either is not available."""
        if self.uses[int(self.pool.a[positive])] >= MAX_USES or not self.taken.isdisjoint(self.identity(positive)):
            return None
        self.change(positive, 1)
        negative = self.best(positive, 0)
        if negative is None:
            self.change(positive, -1)
            return None
        self.change(negative, 1)
        return positive, negative

    def resettle(self, couple: tuple[int, int]) -> tuple[int, int]:
        """The couple with both members chosen again, one after the other, given all other couples."""
        positive, negative = couple
        self.change(positive, -1)
        positive = self.best(negative, 1) or positive
        self.change(positive, 1)
        self.change(negative, -1)
        negative = self.best(positive, 0) or negative
        self.change(negative, 1)
        return positive, negative


def select(name: str, pool: Pool, seed: int, balance: bool) -> list[tuple[int, int]]:
    """The couples of one split, "train" or "validation": the rows in the pool of a paraphrase and a non-paraphrase."""
    split = _Split(pool, name, balance)
    positives = np.flatnonzero((pool.held == (name == "validation")) & (pool.label == 1)).tolist()
    positives.sort(key=lambda i: rank(seed, *pool.codes[i], int(pool.a[i])))
    count: Counter[tuple[str, str]] = Counter()
    couples = []
    for positive in positives:
        if count[pool.codes[positive]] < CAP[name] and (couple := split.settle(positive)):
            couples.append(couple)
            count[pool.codes[positive]] += 1
    for _ in range(SWEEPS if balance else 0):
        couples = [split.resettle(couple) for couple in couples]
    size = float(np.linalg.norm(split.difference.astype(np.float64))) / SCALE / len(couples)
    print(f"  {name}: {2 * len(couples)} pairs, class means {size:.3f} apart", flush=True)
    return couples


def name_pairs(couples: Sequence[tuple[int, int]], pool: Pool, corpus: Corpus, seed: int) -> list[Chosen]:
    """The pairs of all couples, in a random order."""
    chosen = [pair for couple in couples for pair in _orient(couple, pool, corpus, seed)]
    return sorted(chosen, key=lambda pair: rank(seed, "order", tuple(pair)))


def _orient(couple: tuple[int, int], pool: Pool, corpus: Corpus, seed: int) -> list[Chosen]:
    """Both pairs of a couple, with their sides in one random order, so that the order does not reveal the class."""
    swap = rank(seed, "side", *pool.codes[couple[0]], int(pool.a[couple[0]])) % 2
    rows = []
    for i in couple:
        (x, y), a, b = pool.codes[i], corpus.verses[pool.a[i]], corpus.verses[pool.b[i]]
        sides = ((y, b), (x, a)) if swap else ((x, a), (y, b))
        rows.append(Chosen(*sides, int(pool.label[i])))
    return rows
