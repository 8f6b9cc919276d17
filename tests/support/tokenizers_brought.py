"""Folders with the files of a tokenizer, as people bring them: name -> a function that writes one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = [*SPECIAL, "Paris", "is", "old", "##er", "café", "cafe", "paris", "?", "Is"]
TEXT, SECOND = "Paris is older? Café", "is Paris old"


def write(folder: Path, words: list[str] | None = None, *, config: Any = None, names: Any = None) -> Path:
    """A folder with config.json of a BERT and, if given, vocab.txt, tokenizer_config.json, special_tokens_map.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 40}))
    if words is not None:
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if names is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return folder


def plain(normalizer: Any = None, words: list[str] = CASED) -> Tokenizer:
    """A cased WordPiece tokenizer of the `tokenizers` library, which adds no special tokens."""
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token=words[1]))
    made.normalizer = normalizer or normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def backend(normalizer: Any = None, words: list[str] = CASED, cls: str = "[CLS]", sep: str = "[SEP]") -> Tokenizer:
    """The same with special tokens."""
    made = plain(normalizer, words)
    made.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, words.index(cls)), (sep, words.index(sep))],
    )
    return made


def with_file(made: Tokenizer, **options: Any) -> Callable[[Path], Path]:
    """A folder with the tokenizer.json of `made`; for `options` see `write`."""

    def create(folder: Path) -> Path:
        write(folder, **options)
        made.save(str(folder / "tokenizer.json"))
        return folder

    return create


def _truncating() -> Tokenizer:
    made = backend()
    made.enable_truncation(4)
    made.enable_padding(length=4)
    return made


def _raw() -> Tokenizer:
    made = backend()
    made.normalizer = None
    return made


def _with_added() -> Tokenizer:
    made = backend()
    made.add_tokens([AddedToken("older?", single_word=False)])
    return made


def _processed() -> Tokenizer:
    made = backend()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


OTHER = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", *CASED[5:]]
NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
BERT = {"tokenizer_class": "BertTokenizer"}
# Name -> the folder, and the ids of (TEXT, SECOND).
KEPT = [2, 5, 6, 7, 8, 12, 1, 3, 6, 5, 7, 3]  # with capitals and accents, Café unknown
LOWERED = [2, 11, 6, 7, 8, 12, 10, 3, 6, 11, 7, 3]
FOLDERS: dict[str, tuple[Callable[[Path], Path], list[int]]] = {
    "cased vocab.txt alone": (lambda p: write(p, CASED), KEPT),
    "vocab.txt, cased by its settings": (lambda p: write(p, CASED, config=BERT | {"do_lower_case": False}), KEPT),
    "vocab.txt, lower-cased by its settings": (lambda p: write(p, CASED, config={"do_lower_case": True}), LOWERED),
    "cased tokenizer.json alone": (with_file(backend()), KEPT),
    "cased tokenizer.json of BERT's class": (with_file(backend(), config=BERT), KEPT),
    "cased tokenizer.json of the generic class": (
        with_file(backend(), config={"tokenizer_class": "PreTrainedTokenizerFast"}), KEPT,
    ),
    "of transformers 5's class": (with_file(backend(), config={"tokenizer_class": "TokenizersBackend"}), KEPT),
    "a class of their own": (with_file(backend(), config={"tokenizer_class": "OurTokenizer"}), KEPT),
    "no normalizer": (with_file(_raw(), config=BERT), KEPT),
    "another normalizer": (
        with_file(
            backend(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])),
            config=BERT | {"do_lower_case": True},
        ),
        LOWERED,
    ),
    "saved truncation": (with_file(_truncating()), KEPT),
    "BertProcessing": (with_file(_processed()), KEPT),
    "other special tokens": (lambda p: write(p, OTHER, names=NAMES, config={"do_lower_case": False}), KEPT),
    "other special tokens in tokenizer.json": (
        with_file(backend(words=OTHER, cls="<s>", sep="</s>"), names=NAMES, config={"do_lower_case": False}), KEPT,
    ),
    # Each word has the number of its line, also behind blank lines and a line separator, as in Chinese vocabularies:
    # https://github.com/trueto/medbert/issues/6
    "vocab.txt with odd lines": (
        lambda p: write(p, [*CASED[:5], "\u2028", "", *CASED[5:]], config={"do_lower_case": False}),
        [i + 2 * (i > 4) for i in KEPT],
    ),
    "added token": (with_file(_with_added()), [2, 5, 6, 14, 1, 3, 6, 5, 7, 3]),
}  # fmt: skip
