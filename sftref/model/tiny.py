"""The model "tiny": a BERT small enough for tests, and a tokenizer for any text, both without files.

All its parameters are initialized (see `pretrained.initial`); it learns little, but a step takes milliseconds.
"""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHANUMERIC = string.ascii_lowercase + string.digits
# Every ASCII character that BERT's normaliser keeps, alone and, except punctuation, inside a word.
VOCABULARY = (*SPECIAL, *ALPHANUMERIC, *string.punctuation, *(f"##{c}" for c in ALPHANUMERIC))


def hf_config() -> dict[str, Any]:
    """The config.json of the tiny model: 2 layers, width 32, 4 heads, feed-forward 64."""
    return {
        "model_type": "bert", "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 512,
    }  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """An uncased WordPiece tokenizer, one token a character; a word with any other character is [UNK]."""
    from transformers import BertTokenizerFast

    # From files, the only constructor that transformers 4 and 5 share; and as BERT's own class, because 4 does not know
    # the name of the generic class that 5 saves. Without the class in the settings, transformers would guess one from
    # the folder's name.
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
        return BertTokenizerFast.from_pretrained(folder)
