"""A tokenizer, ids of texts -> the share of words that it does not know; whether a vocabulary has capitals."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sftref.config import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# Shares of unknown words. From the first, a warning is logged. Above the second, the model sees less of the texts than
# it does not see.
WARN_UNKNOWN, MOST_UNKNOWN = 0.01, 0.5


def check_unknown(tokenizer: PreTrainedTokenizerFast, ids: npt.NDArray[np.int32], name: str) -> None:
    """Log a warning if words are unknown to the tokenizer that made `ids` [T]; `name` is that of the data set.

    Raises:
        ConfigError: most words are unknown.
    """
    share = unknown_share(tokenizer, ids)
    if share < WARN_UNKNOWN:
        return
    text = f"{name}: {share:.1%} of the words are unknown to the tokenizer of --model"
    if keeps_capitals(tokenizer):
        text += ", whose vocabulary has no capitals while it does not lower-case texts (do_lower_case)"
    require(
        share <= MOST_UNKNOWN,
        f"{text}, must be at most {MOST_UNKNOWN:.0%}; use the model's own tokenizer, or a model for this language",
    )
    logger.warning("%s", text)


def unknown_share(tokenizer: PreTrainedTokenizerFast, ids: npt.NDArray[np.int32]) -> float:
    """The share of unknown tokens among those that stand for words: the unknown token, or letters or digits, in [0, 1].

    Args:
        tokenizer: has made `ids`.
        ids: int32 [T], the ids of any number of texts.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return 0.0
    counts = np.bincount(ids, minlength=unknown + 1)
    special = {unknown, *tokenizer.all_special_ids}
    tokens = tokenizer.convert_ids_to_tokens(np.flatnonzero(counts).tolist())
    words = sum(
        int(counts[i])
        for i, token in zip(np.flatnonzero(counts).tolist(), tokens, strict=True)
        if i not in special and token is not None and any(map(str.isalnum, token))
    )
    return float(counts[unknown]) / max(words + int(counts[unknown]), 1)


def keeps_capitals(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer leaves text in upper case although its vocabulary has no word with a capital."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    lowers = normalizer is not None and normalizer.normalize_str("A") == "a"
    return not lowers and cased_share(tokenizer.get_vocab()) == 0


def cased_share(vocabulary: Iterable[str]) -> float:
    """The share of words with a capital in a vocabulary; special tokens such as [CLS] or <s> are no words."""
    words = [word for word in vocabulary if word[:1] not in "[<" and any(map(str.isalpha, word))]
    return sum(word != word.lower() for word in words) / max(len(words), 1)
