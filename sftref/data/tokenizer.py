"""A model's folder <-> its tokenizer, the same one in transformers 4.57 and 5; which words it knows.

`AutoTokenizer` takes the class from a configuration. For a BERT, this class builds a normalizer, a pre-tokenizer and a
post-processor of its own and ignores those in tokenizer.json. So what was loaded is compared with that file here.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftref.config import ConfigError, one_line, require
from sftref.data.tokenizer_parts import changed as changed_parts
from sftref.data.tokenizer_parts import is_plain_bert
from sftref.data.unknown import cased_share

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

TOKENIZER, SETTINGS, VOCABULARY = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
# The class that transformers 4 and 5 both read as "tokenizer.json as it is".
GENERIC = "PreTrainedTokenizerFast"
NEW_GENERIC = "TokenizersBackend"  # its name in version 5, which version 4 does not know
# Settings of a BertTokenizer -> the same settings of its normalizer in tokenizer.json.
NORMALIZER = {
    "do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars", "strip_accents": "strip_accents",
}  # fmt: skip
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# The share of vocabulary entries with capitals from which a vocabulary counts as cased. Text in lower case has no
# capitals, so an uncased vocabulary has none, except for words that a user added.
CASED = 0.05
# Rows of an embedding table that can be padding: Megatron-LM rounds the vocabulary up to a multiple of 128 times the
# tensor-parallel size (--make-vocab-size-divisible-by), at most 8 in one machine.
PADDED_ROWS = 1024


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that the files in a folder describe.

    With a tokenizer.json, its normalizer, pre-tokenizer, post-processor and vocabulary are used as they are. With a
    vocab.txt only, `transformers.AutoTokenizer` makes a BERT tokenizer from it; if no file says whether text becomes
    lower case, the vocabulary decides.

    Raises:
        ConfigError: the tokenizer is missing, broken, empty, or not a fast one; two files contradict each other.
    """
    import transformers

    source = f"--model {folder}"
    has_file = (folder / TOKENIZER).is_file()
    if not has_file and not (folder / VOCABULARY).is_file():
        names = ", ".join(sorted(path.name for path in folder.glob("*")))[:200] or "no file"
        raise ConfigError(
            f"{source}: no tokenizer could be loaded (no {TOKENIZER} and no {VOCABULARY}, but {names}); "
            f"give a folder with {TOKENIZER} and {SETTINGS}"
        )
    try:
        options = {} if has_file else _casing(folder, source)
        file = json.loads((folder / TOKENIZER).read_text(encoding="utf-8")) if has_file else None
        try:
            kind = transformers.BertTokenizerFast if has_file and _names_bert(folder) else transformers.AutoTokenizer
            tokenizer = kind.from_pretrained(folder, local_files_only=True, **options)
        except Exception:  # as below: version 4 does not know the classes of version 5, nor a normalizer of null
            if file is None:
                raise
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if file is not None and isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
            tokenizer = _as_described(tokenizer, file, folder, source)
    except ConfigError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, JSONDecodeError, and Rust's bare Exception
        raise ConfigError(
            f"{source}: no tokenizer could be loaded ({one_line(error)}); give a folder with {TOKENIZER} and {SETTINGS}"
        ) from error
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        kind = type(tokenizer).__name__
        raise ConfigError(f"{source}: tokenizer is a {kind}, must be a fast one; add a {TOKENIZER}")
    _check_special(tokenizer, source)
    if "model_input_names" not in _settings(folder):
        # By default, the generic class of transformers 5 gives no token types; that of version 4 does.
        tokenizer.model_input_names = list(INPUTS)
    return tokenizer


def check_tables(tokenizer: PreTrainedTokenizerFast, vocab_size: int, source: str) -> None:
    """Compare a tokenizer with the model's embedding table of `vocab_size` rows.

    Raises:
        ConfigError: a special token that a BERT needs has no row.
    """
    # Transformers adds those that the vocabulary lacks behind its end. Classification does not need [MASK].
    special = [token for name, token in _special(tokenizer).items() if name != "mask_token"]
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    beyond = [f"{token} = {i}" for token, i in ids.items() if i is not None and i >= vocab_size]
    require(
        not beyond,
        f"{source}: its tokenizer has the special tokens {', '.join(beyond)}, must have ids below the model's "
        f"vocab_size = {vocab_size}; name the special tokens of its vocabulary in {SETTINGS} (unk_token, cls_token, "
        "sep_token, pad_token)",
    )
    size = len(tokenizer)
    if vocab_size - size >= PADDED_ROWS:
        logger.warning(
            "%s: its tokenizer has %d tokens, its model has a table of %d; check that the tokenizer is the model's",
            source, size, vocab_size,
        )  # fmt: skip
    elif size > vocab_size:
        logger.warning(
            "%s: its tokenizer has %d tokens, its model has a table of %d; the last tokens cannot be used in a text",
            source, size, vocab_size,
        )  # fmt: skip


def definition(tokenizer: PreTrainedTokenizerFast) -> list[Any]:
    """Everything in a tokenizer that its output depends on, as plain values."""
    # A tokenizer's JSON includes the truncation and padding of its last call; `tokenize` sets both in each call.
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    return [tokenizer.truncation_side, "token_type_ids" in tokenizer.model_input_names, backend]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which transformers 4.57 and 5 read as the same tokenizer.

    Transformers 5 names its generic class TokenizersBackend, which version 4 does not know; that class gives no token
    types by default. It also saves the truncation of the last call, by which the `tokenizers` library would cut every
    text.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(str(folder))
    path = folder / SETTINGS
    settings = json.loads(path.read_text(encoding="utf-8"))
    if not is_plain_bert(tokenizer, settings):
        settings["tokenizer_class"] = GENERIC
    settings["model_input_names"] = tokenizer.model_input_names
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):  # of a call
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _special(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The names of the special tokens of a BERT, such as cls_token -> its tokens; without those that are not set."""
    names = ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    return {name: str(token) for name in names if (token := getattr(tokenizer, name, None)) is not None}


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _names_bert(folder: Path) -> bool:
    """Whether a folder names the class that `AutoTokenizer` would take: its module imports torch, if it is installed.

    That import takes 0.8 s, half of the time until a tokenizer is loaded (torch 2.13.0, transformers 5.24.0).
    """
    return _settings(folder).get("tokenizer_class") in ("BertTokenizer", "BertTokenizerFast")


def _casing(folder: Path, source: str) -> dict[str, Any]:
    """The argument of `AutoTokenizer` for a folder with vocab.txt only, in which no file says whether it is cased."""
    text = (folder / VOCABULARY).read_text(encoding="utf-8")
    require(
        not text.startswith("\ufeff"),
        f"{source}: {folder / VOCABULARY} begins with a byte order mark, which would be part of its first token; "
        "save it as UTF-8 without this mark",
    )
    words = text.split("\n")
    require(
        any(words),
        f"{source}: {folder / VOCABULARY} is empty, must have one token per line; copy or download it again",
    )
    if "do_lower_case" in _settings(folder) or cased_share(words) < CASED:
        return {}
    logger.warning(
        "%s: no file says whether its tokenizer keeps capitals; it keeps them, because %s has words with capitals. "
        'To set it, write {"do_lower_case": false} or true into %s',
        source, VOCABULARY, SETTINGS,
    )  # fmt: skip
    return {"do_lower_case": False}


def _as_described(
    tokenizer: PreTrainedTokenizerFast, file: dict[str, Any], folder: Path, source: str
) -> PreTrainedTokenizerFast:
    """The tokenizer, or the generic one of tokenizer.json if transformers has changed a part of that file."""
    import transformers

    # Tokenizers of the `tokenizers` library have none at first (huggingface/tokenizers#1481); transformers 5 adds one.
    _check_framed(file.get("post_processor") is not None, source)
    if not changed_parts(tokenizer, file):
        return tokenizer
    _check_settings(_settings(folder), file, source)
    special = _special(tokenizer)
    generic = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **special)
    changed = changed_parts(generic, file)
    require(
        not changed,
        f"{source}: transformers changes the {' and the '.join(changed)} of {TOKENIZER}, must keep them; "
        f"correct {SETTINGS}",
    )
    return generic


def _check_settings(settings: dict[str, Any], file: dict[str, Any], source: str) -> None:
    """Refuse a tokenizer_config.json whose settings of a BERT tokenizer contradict tokenizer.json."""
    normalizer = file.get("normalizer") or {}
    if settings.get("tokenizer_class") in (NEW_GENERIC, GENERIC) or normalizer.get("type") != "BertNormalizer":
        return
    for name, theirs in NORMALIZER.items():
        got, want = settings.get(name), normalizer.get(theirs)
        require(
            got is None or want is None or got == want,
            f"{source}: {name} = {json.dumps(got)} in {SETTINGS}, must be {json.dumps(want)}, as {theirs} in "
            f"{TOKENIZER}; correct one of the two files",
        )


def _check_special(tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """Refuse a tokenizer that has no words or no token for an unknown word, or that does not begin with [CLS]."""
    vocabulary = tokenizer.get_vocab()
    words = vocabulary.keys() - set(tokenizer.all_special_tokens)
    require(
        bool(words),
        f"{source}: its tokenizer has no words, only {', '.join(sorted(vocabulary)[:5]) or 'nothing'}; "
        "copy or download its files again",
    )
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    unknown = model.get("unk_token")
    require(
        unknown is None or unknown in model["vocab"],
        f"{source}: the vocabulary of its tokenizer lacks {unknown}, the token of an unknown word; name the one "
        f"that it has in {SETTINGS} (unk_token)",
    )
    _check_framed(len(tokenizer("").input_ids) >= 2, source)


def _check_framed(framed: bool, source: str) -> None:
    require(
        framed,
        f"{source}: its tokenizer adds no special tokens to a text, must add [CLS] and [SEP], because a BERT "
        f"classifies by [CLS]; set a post_processor in {TOKENIZER}",
    )
