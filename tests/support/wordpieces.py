"""A WordPiece tokenizer with 13 words, a real BERT tokenizer, and a few pairs of texts for them."""

import dataclasses
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from sftref.data.tokens import TokenArrays
from sftref.model.weights import model_folder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "old", "are", "you", "##s", "what", "age", "?"]
FAST = transformers.PreTrainedTokenizerFast
FILES = [field.name for field in dataclasses.fields(TokenArrays)]


def wordpiece(**options: Any) -> FAST:
    """BERT's tokenizer with 13 words."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"], **options}
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return FAST(tokenizer_object=backend, **special, **names)


def real_tokenizer_folder() -> Path:
    """The folder of a real BERT tokenizer (30,522 words)."""
    return model_folder("demo")


def pairs(texts: list[tuple[str, str]], labels: list[int] | None = None) -> datasets.Dataset:
    n = len(texts)
    columns = {
        "question1": [a for a, _ in texts],
        "question2": [b for _, b in texts],
        "label": labels or [i % 2 for i in range(n)],
        "example_id": [10 * i for i in range(n)],
    }
    return datasets.Dataset.from_dict(columns)


FEW = [("How old are you?", "what age"), ("", ""), ("olds zzz", "you you you you you you you"), ("ages", "how")]


def assert_equal(got: TokenArrays, want: TokenArrays) -> None:
    for name in FILES:
        a, b = getattr(got, name), getattr(want, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
