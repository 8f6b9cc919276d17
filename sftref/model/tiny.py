"""The model "tiny": a BERT small enough for tests, and a tokenizer for any text, both without files.

All its parameters are random (see `pretrained.initial`). It learns little, but a step takes milliseconds.
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
# A token for each ASCII character that BERT's normaliser keeps; letters and digits also have one for inside a word.
VOCABULARY = (*SPECIAL, *ALPHANUMERIC, *string.punctuation, *(f"##{c}" for c in ALPHANUMERIC))


def hf_config() -> dict[str, Any]:
    """The config.json of the tiny model: 2 layers, width 32, 4 heads, feed-forward 64."""
    return {
        "model_type": "bert", "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 512,
    }  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """An uncased WordPiece tokenizer, one token per ASCII character; a word with another character is [UNK]."""
    from transformers import BertTokenizerFast

    # The tokenizer is made from files, the only way that transformers 4 and 5 share. Its class is BERT's own, because
    # version 4 does not know the generic class that version 5 saves. Without `tokenizer_class`, transformers would
    # guess a class from the folder's name.
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
        return BertTokenizerFast.from_pretrained(folder)
