"""A tokenizer, a tokenizer.json -> the parts in which they differ; whether the class BertTokenizer builds the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The parts of tokenizer.json that decide which ids a text gets. Truncation and padding are arguments of a call.
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "model")


def changed(tokenizer: PreTrainedTokenizerFast, file: dict[str, Any]) -> list[str]:
    """The parts in which a tokenizer differs from tokenizer.json, read by the `tokenizers` library."""
    import tokenizers

    # Written again, because the library adds defaults that an older file lacks.
    described = json.loads(tokenizers.Tokenizer.from_str(json.dumps(file)).to_str())
    got = json.loads(tokenizer.backend_tokenizer.to_str())
    return [part for part in PARTS if _same(described[part]) != _same(got[part])]


def _same(part: Any) -> Any:
    """A part with its equivalent forms made equal."""
    if isinstance(part, dict) and part.get("type") == "BertNormalizer":
        return _bert_normalizer(part)
    if isinstance(part, dict) and part.get("type") == "BertProcessing":
        (sep, sep_id), (cls, cls_id) = part["sep"], part["cls"]
        return _template(cls, cls_id, sep, sep_id)
    if isinstance(part, dict) and part.get("type") == "TemplateProcessing":
        return {k: v for k, v in part.items() if k != "special_tokens"} | {
            "ids": {name: token["ids"] for name, token in part["special_tokens"].items()}
        }
    return part


def is_plain_bert(tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any]) -> bool:
    """Whether the class BertTokenizer of transformers 5, which builds all parts but the vocabulary, builds these."""
    file = json.loads(tokenizer.backend_tokenizer.to_str())
    normalizer, model = file["normalizer"] or {}, file["model"]
    accents = settings.get("strip_accents")
    lower = settings.get("do_lower_case", True)
    want = {
        "type": "BertNormalizer", "clean_text": True, "lowercase": lower,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": lower if accents is None else accents,
    }  # fmt: skip
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    return (
        str(settings.get("tokenizer_class")).removesuffix("Fast") == "BertTokenizer"
        and _same(normalizer) == want
        and file["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and _same(file["post_processor"]) == _template(cls, tokenizer.cls_token_id, sep, tokenizer.sep_token_id)
        and (model.get("continuing_subword_prefix"), model.get("max_input_chars_per_word")) == ("##", 100)
    )


def _template(cls: str, cls_id: int, sep: str, sep_id: int) -> dict[str, Any]:
    """What `TemplateProcessing` says if it does the same as `BertProcessing`."""

    def special(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    single = [special(cls, 0), first, special(sep, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, second, special(sep, 1)],
        "ids": {cls: [cls_id], sep: [sep_id]},
    }


def _bert_normalizer(part: dict[str, Any]) -> dict[str, Any]:
    """`strip_accents` = null means: as `lowercase`."""
    accents = part.get("strip_accents")
    return part | {"strip_accents": part.get("lowercase") if accents is None else accents}
