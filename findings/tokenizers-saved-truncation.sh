#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3, Python 3.11, Linux x86-64, 2026-11-29.
#
# Behaviour: a call with `truncation=True, max_length=4, padding="max_length"` changes the tokenizer itself, and
# `save_pretrained` writes both settings into tokenizer.json. `tokenizers.Tokenizer.from_file` then cuts every text to 4
# tokens; the same folder read by transformers does not. So one folder gives two tokenizations.
# Expected: arguments of a call are not kept, or both libraries read the folder alike.
# Who meets this: anyone who fine-tunes, saves, and serves the model with the smaller library: long texts are cut in
# silence.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cat > "$folder/seen" <<'SEEN'
before the call: tokenizers 7, transformers 7 tokens
after the call: tokenizers 4, transformers 7 tokens
in tokenizer.json: truncation to 4, padding to {'Fixed': 4}
SEEN
TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - "$folder" > "$folder/now" <<'PYTHON'
import json
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])}
core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
core.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")
for when in ("before", "after"):
    if when == "after":
        tokenizer(["a b c a b"], truncation=True, max_length=4, padding="max_length")
    path = f"{sys.argv[1]}/{when}"
    tokenizer.save_pretrained(path)
    small = Tokenizer.from_file(f"{path}/tokenizer.json").encode("a b c a b").ids
    large = PreTrainedTokenizerFast.from_pretrained(path)("a b c a b").input_ids
    print(f"{when} the call: tokenizers {len(small)}, transformers {len(large)} tokens")
saved = json.load(open(f"{path}/tokenizer.json"))
print(f"in tokenizer.json: truncation to {saved['truncation']['max_length']}, padding to {saved['padding']['strategy']}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
