"""{translation: {verse id: sentence}} -> candidate pairs of sentences, and the bag-of-words features of each pair.

All decisions are made with integer arithmetic, so that the selection does not depend on a BLAS or its version.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from bundled_pairs.sources import Verses, book_of

SCALE = 4096  # a unit vector's length as an integer: 12 bits, a resolution of 0.00025 in a TF-IDF weight
MIN_WORDS, MAX_WORDS = 5, 60  # shorter sentences are fragments; two longer ones exceed the usual 128 word pieces
# Psalms and Song of Solomon, where superscriptions and speakers' names are part of the verses. The last verse of Job is
# also left out, because in one package it ends in the title of the Psalms.
EXCLUDED_BOOKS = frozenset({19, 22})
EXCLUDED_VERSES = frozenset({18042017})
VALIDATION_BOOKS = frozenset({43, 58})  # John and Hebrews: a narrative and a letter; neither is in the training split
MIN_DISTANCE = 3  # verses between the two sides of a non-paraphrase, as nearer verses share a sentence or a scene
NEAREST = 50  # non-paraphrases considered for each sentence in each other translation: the closest ones,
# and so many that some look like paraphrases to a bag of words
NEAREST_HELD = 400  # `NEAREST` for a validation book: nearly all in range, as two books provide all pairs
FLOOR, CEILING = 0.12, 0.62  # TF-IDF cosine: pairs below share nothing; above, no non-paraphrase matches
# Two verses with a higher cosine than this within one translation are doublets or formulae ("And the LORD spoke unto
# Moses, saying"). They mean the same, so they are not used as non-paraphrases; across books they would leak into
# validation.
DOUBLET = 0.6

Ints = np.ndarray[Any, np.dtype[np.int64]]


def tokens(text: str) -> list[str]:
    """The words of a text in lower case, with the apostrophes inside words.

    Example:
        >>> tokens("God's Spirit was hovering.")
        ["god's", 'spirit', 'was', 'hovering']
    """
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower())


def eligible(texts: Mapping[str, Verses]) -> dict[str, Verses]:
    """The verses that are not too short, not too long, and not excluded."""
    return {
        code: {
            verse: text
            for verse, text in verses.items()
            if MIN_WORDS <= len(text.split()) <= MAX_WORDS
            and book_of(verse) not in EXCLUDED_BOOKS
            and verse not in EXCLUDED_VERSES
        }
        for code, verses in texts.items()
    }


class Corpus:
    """The sentences as integer matrices with one row per verse; a verse that a translation lacks has a row of zeros.

    Attributes:
        verses: the verse ids, ascending; the rows of every matrix.
        codes: the translations, in a fixed order.
        tfidf: per translation, rows of length `SCALE` (sublinear term frequency, smoothed IDF, as scikit-learn's).
        binary: per translation, which words occur.
        bigrams: per translation, which pairs of adjacent words occur.
    """

    def __init__(self, texts: Mapping[str, Verses]) -> None:
        self.texts = eligible(texts)
        self.codes = sorted(self.texts)
        self.verses = sorted({verse for verses in self.texts.values() for verse in verses})
        words = {code: [tokens(self.texts[code].get(verse, "")) for verse in self.verses] for code in self.codes}
        documents = [set(row) for rows in words.values() for row in rows if row]
        frequency = Counter(word for row in documents for word in row)
        self.vocabulary = {word: i for i, word in enumerate(sorted(frequency))}
        self.idf = {word: math.log((1 + len(documents)) / (1 + df)) + 1 for word, df in sorted(frequency.items())}
        self.tfidf = {code: self._matrix([self._weights(row) for row in words[code]]) for code in self.codes}
        self.binary = {code: (self.tfidf[code] > 0).astype(np.int64) for code in self.codes}
        self.bigrams = self._bigrams(words)
        self.n_words = {code: np.array([len(row) for row in words[code]], np.int64) for code in self.codes}
        self.n_chars = {
            code: np.array([len(self.texts[code].get(verse, "")) for verse in self.verses], np.int64)
            for code in self.codes
        }
        self.names = self._names()
        numbers: dict[str, int] = {}  # the same number for sentences that differ only in capitals
        self.text_id = {
            code: np.array([numbers.setdefault(" ".join(row), len(numbers)) for row in words[code]], np.int64)
            for code in self.codes
        }

    def _weights(self, row: Sequence[str]) -> dict[str, int]:
        weights = {word: (1 + math.log(count)) * self.idf[word] for word, count in Counter(row).items()}
        norm = math.sqrt(math.fsum(weight * weight for weight in weights.values())) or 1.0
        return {word: round(SCALE * weight / norm) for word, weight in weights.items()}

    def _matrix(self, rows: Sequence[Mapping[str, int]]) -> Any:
        cells = [(i, self.vocabulary[word], value) for i, row in enumerate(rows) for word, value in row.items()]
        i, j, values = np.array(cells, np.int64).T
        return sp.csr_matrix((values, (i, j)), shape=(len(rows), len(self.vocabulary)))

    def _bigrams(self, words: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, Any]:
        index: dict[tuple[str, str], int] = {}
        cells: dict[str, list[tuple[int, int]]] = {}
        for code in self.codes:
            cells[code] = [
                (i, index.setdefault(pair, len(index)))
                for i, row in enumerate(words[code])
                for pair in sorted(set(itertools.pairwise(row)))
            ]
        shape = (len(self.verses), len(index))
        return {
            code: sp.csr_matrix((np.ones(len(at), np.int64), tuple(np.array(at, np.int64).T)), shape=shape)
            for code, at in cells.items()
        }

    def _names(self) -> Ints:
        """Names: 1 for each word of the vocabulary that is capitalised in nine of ten occurrences inside sentences."""
        upper, lower = Counter[str](), Counter[str]()
        for verses in self.texts.values():
            for text in verses.values():
                for word in re.findall(r"(?<=[a-z,;] )[A-Za-z]+(?:'[a-z]+)*", text):
                    (upper if word[0].isupper() else lower)[word.lower()] += 1
        return np.array([upper[word] > 9 * lower[word] for word in self.vocabulary], np.int64)

    def leaks(self) -> Ints:
        """1 for each verse of another book that is a doublet of a validation verse (a parallel or a quotation)."""
        held = np.array([book_of(verse) in VALIDATION_BOOKS for verse in self.verses])
        leak = np.zeros(len(self.verses), np.int64)
        for code in self.codes:
            target = self.tfidf[code][held].T.tocsr()
            for start in range(0, len(self.verses), 2048):  # in blocks of rows, to limit memory
                near = (self.tfidf[code][start : start + 2048] @ target).max(axis=1).toarray().ravel()
                leak[start : start + 2048] |= near > DOUBLET * SCALE * SCALE
        leak[held] = 0
        return leak


class Pairs:
    """The candidate pairs of two translations, as columns: rows of the corpus, class, overlap in units of 1/`SCALE`."""

    def __init__(self, x: str, y: str, a: Ints, b: Ints, corpus: Corpus) -> None:
        self.x, self.y, self.a, self.b = x, y, a, b
        self.label = (a == b).astype(np.int64)
        self.cosine = _row_dots(corpus.tfidf[x][a], corpus.tfidf[y][b]) // SCALE
        self.jaccard = _jaccard(corpus.binary[x][a], corpus.binary[y][b])
        self.book = np.array([book_of(verse) for verse in corpus.verses], np.int64)[a]

    def __len__(self) -> int:
        return len(self.a)

    def take(self, rows: Ints) -> None:
        """Keep only the pairs `rows`."""
        for column in ("a", "b", "label", "cosine", "jaccard", "book"):
            setattr(self, column, getattr(self, column)[rows])

    def describe(self, corpus: Corpus) -> Any:
        """The bag-of-words features of each pair, as a sparse integer matrix [pairs, 2 * words + scalars]."""
        x, y, a, b = self.x, self.y, self.a, self.b
        left, right = corpus.tfidf[x][a], corpus.tfidf[y][b]
        either = corpus.binary[x][a] + corpus.binary[y][b]
        apart = abs(corpus.binary[x][a] - corpus.binary[y][b])
        words = corpus.n_words[x][a], corpus.n_words[y][b]
        chars = corpus.n_chars[x][a], corpus.n_chars[y][b]
        rarity = np.array([round(SCALE * corpus.idf[word] / 100) for word in corpus.vocabulary], np.int64)
        names = corpus.names * (SCALE // 2)
        # Weights give each scalar a typical spread of about one unit (SCALE). The overlaps get more, because they are
        # few; the overlap of adjacent words, whose spread is least, gets most.
        scalars = [
            4 * self.cosine,
            4 * self.jaccard,
            16 * _jaccard(corpus.bigrams[x][a], corpus.bigrams[y][b]),
            (words[0] + words[1]) * (SCALE // 20),
            abs(words[0] - words[1]) * (SCALE // 5),
            (chars[0] + chars[1]) * (SCALE // 100),
            abs(chars[0] - chars[1]) * (SCALE // 25),
            either @ names,
            apart @ names,
            either @ rarity,
            apart @ rarity,
        ]
        columns = sp.csr_matrix(np.stack([np.asarray(column, np.int64) for column in scalars], axis=1))
        return sp.hstack([left + right, abs(left - right), columns], format="csr")


def _row_dots(left: Any, right: Any) -> Ints:
    return np.asarray(left.multiply(right).sum(axis=1), np.int64).ravel()


def _jaccard(left: Any, right: Any) -> Ints:
    """Per row, shared distinct words (or pairs of words) / all distinct ones, times `SCALE`, rounded down."""
    both = _row_dots(left, right)
    either = np.asarray(left.sum(axis=1) + right.sum(axis=1), np.int64).ravel() - both
    share: Ints = SCALE * both // np.maximum(either, 1)
    return share


def enumerate_pairs(corpus: Corpus) -> dict[tuple[str, str], Pairs]:
    """All paraphrases, and the closest non-paraphrases of each sentence in its own book, per pair of translations."""
    found: dict[tuple[str, str], list[tuple[Ints, Ints]]] = {}
    book = np.array([book_of(verse) for verse in corpus.verses])
    usable = corpus.leaks() == 0
    for number in np.unique(book):
        rows = np.flatnonzero((book == number) & usable)
        blocks = {code: corpus.tfidf[code][rows] for code in corpus.codes if corpus.tfidf[code][rows].nnz}
        barred = np.abs(rows[:, None] - rows[None, :]) < MIN_DISTANCE
        for block in blocks.values():
            barred |= (block @ block.T).toarray() > DOUBLET * SCALE * SCALE
        for i, x in enumerate(blocks):
            for y in list(blocks)[i + 1 :]:
                nearest = NEAREST_HELD if number in VALIDATION_BOOKS else NEAREST
                a, b = _nearest((blocks[x] @ blocks[y].T).toarray(), barred, nearest)
                found.setdefault((x, y), []).append((rows[a], rows[b]))
    return {
        (x, y): Pairs(x, y, np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts]), corpus)
        for (x, y), parts in found.items()
    }


def _nearest(cosine: Ints, barred: np.ndarray[Any, np.dtype[np.bool_]], nearest: int) -> tuple[Ints, Ints]:
    """Rows and columns of pairs in range: the diagonal (paraphrases), and the nearest others of each row and column."""
    inside = (cosine > FLOOR * SCALE * SCALE) & (cosine < CEILING * SCALE * SCALE)
    keep = np.eye(len(cosine), dtype=bool)
    others = np.where(barred, -1, cosine)
    by_row = np.argsort(-others, axis=1, kind="stable")[:, :nearest]
    by_column = np.argsort(-others, axis=0, kind="stable")[:nearest]
    candidate = np.zeros_like(keep)
    np.put_along_axis(candidate, by_row, True, axis=1)
    np.put_along_axis(candidate, by_column, True, axis=0)
    a, b = np.nonzero(inside & (keep | (candidate & ~barred)))
    return a, b
