"""Our parameter tree <-> a flat dict under the names and layouts of a Hugging Face BERT checkpoint. NumPy only.

    embeddings / word_embeddings / embedding [V, D]    bert.embeddings.word_embeddings.weight [V, D]
    layer_0 / attention / query / kernel [in, out]     bert.encoder.layer.0.attention.self.query.weight [out, in]
    layer_0 / attention / LayerNorm / scale [D]        bert.encoder.layer.0.attention.output.LayerNorm.weight [D]

Gradients and moments are trees of the same form and go the same way. Source of the names:
`BertForSequenceClassification` in https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/modeling_bert.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sftref.config import ModelConfig, require

Params: TypeAlias = dict[str, Any]  # nested, as Flax's `init(...)["params"]`; leaves are arrays
Flat: TypeAlias = dict[str, np.ndarray]

# The head and what feeds it: a pre-trained checkpoint need not have them, and fine-tuning starts them afresh.
OPTIONAL = ("bert.pooler.dense", "classifier")

# Buffers and pre-training heads that BERT checkpoints carry and classification does not use. Anything else that is
# unknown is an error: it may be a part of the model that would be missing from the results.
UNUSED = frozenset(
    {
        "bert.embeddings.position_ids",  # 0, 1, 2, ...: stored as a buffer until transformers 4.31
        "cls.predictions.bias",
        "cls.predictions.decoder.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    }
)

# Ours -> theirs, for the modules of a layer and for the rest.
_IN_LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "attention/LayerNorm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "LayerNorm": "output.LayerNorm",
}
_OUTSIDE = {
    "embeddings/word_embeddings": "bert.embeddings.word_embeddings",
    "embeddings/position_embeddings": "bert.embeddings.position_embeddings",
    "embeddings/token_type_embeddings": "bert.embeddings.token_type_embeddings",
    "embeddings/LayerNorm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
    "classifier": "classifier",
}
_LAYER_NAME = re.compile(r"bert\.encoder\.layer\.(\d+)\.")


class Leaf(NamedTuple):
    """One parameter: its name and shape in a checkpoint, and its path in our tree."""

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]

    @property
    def transposed(self) -> bool:
        """Whether the two layouts differ: an affine map is (out, in) there and [in, out] here."""
        return self.path[-1] == "kernel"


def leaves(config: ModelConfig) -> tuple[Leaf, ...]:
    """All parameters of a model, from the embeddings to the classifier."""
    d, f, c = config.hidden_size, config.intermediate_size, config.num_labels
    rows = {
        "word_embeddings": config.vocab_size,
        "position_embeddings": config.max_position_embeddings,
        "token_type_embeddings": config.type_vocab_size,
    }

    def of(module: str, path: tuple[str, ...]) -> Iterator[Leaf]:
        kind = path[-1]
        if kind in rows:
            yield Leaf(f"{module}.weight", (rows[kind], d), (*path, "embedding"))
            return
        if kind == "LayerNorm":
            yield Leaf(f"{module}.weight", (d,), (*path, "scale"))
            yield Leaf(f"{module}.bias", (d,), (*path, "bias"))
            return
        out = {"intermediate": f, "classifier": c}.get(kind, d)
        # Both projections of a layer are called "output"; the feed-forward one reads F features.
        fan_in = f if kind == "output" and path[-2] != "attention" else d
        yield Leaf(f"{module}.weight", (out, fan_in), (*path, "kernel"))
        yield Leaf(f"{module}.bias", (out,), (*path, "bias"))

    found: list[Leaf] = []
    for ours, theirs in _OUTSIDE.items():
        if ours == "pooler":
            for i in range(config.num_hidden_layers):
                for inner, inner_theirs in _IN_LAYER.items():
                    found += of(f"bert.encoder.layer.{i}.{inner_theirs}", (f"layer_{i}", *inner.split("/")))
        found += of(theirs, tuple(ours.split("/")))
    return tuple(found)


def to_hf(params: Mapping[str, Any]) -> Flat:
    """Our tree -> a flat dict under the names of a checkpoint, in its layouts.

    Args:
        params: the tree of `BertForSequenceClassification.init(...)["params"]`, or one of its form. The leaves may be
            NumPy or JAX arrays, of any dtype, which they keep.

    Returns:
        NumPy arrays in C order; those that need no transposition may be the caller's own.

    Raises:
        ValueError: a path that is no parameter of the model.
    """
    flat: Flat = {}
    for path, leaf in _walk(params, ()):
        *modules, kind = path
        layer = re.fullmatch(r"layer_(\d+)", modules[0]) if modules else None
        if layer:
            inner = _IN_LAYER.get("/".join(modules[1:]))
            theirs = inner and f"bert.encoder.layer.{int(layer[1])}.{inner}"
        else:
            theirs = _OUTSIDE.get("/".join(modules))
        if theirs is None or kind not in ("kernel", "embedding", "scale", "bias"):
            raise ValueError(f"params path = {'/'.join(path)!r}, must be a parameter of BertForSequenceClassification")
        value = np.asarray(leaf)
        name = f"{theirs}.{'bias' if kind == 'bias' else 'weight'}"
        flat[name] = np.ascontiguousarray(value.T if kind == "kernel" else value)
    return flat


def from_hf(flat: Mapping[str, Any], config: ModelConfig, *, source: str = "parameters") -> Params:
    """A flat dict under the names of a checkpoint -> our tree; the inverse of `to_hf`.

    Args:
        flat: exactly the parameters of `leaves(config)`, of any dtype, which they keep.
        config: gives names and shapes.
        source: what the errors call the dict.

    Returns:
        Nested dicts of NumPy arrays in C order.

    Raises:
        ConfigError: a parameter is unknown, missing, or of another shape.
    """
    wanted = leaves(config)
    check_known(flat, config, source=source)
    params: Params = {}
    for leaf in wanted:
        require(
            leaf.name in flat,
            f"{source}: {leaf.name} {list(leaf.shape)} is missing; give a complete checkpoint of {describe(config)}",
        )
        value = np.asarray(flat[leaf.name])
        require(
            value.shape == leaf.shape,
            f"{source}: {leaf.name} has shape {list(value.shape)}, must be {list(leaf.shape)} for {describe(config)}",
        )
        node = params
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        node[leaf.path[-1]] = np.ascontiguousarray(value.T if leaf.transposed else value)
    return params


def canonical(names: Iterable[str], *, source: str = "parameters") -> dict[str, str]:
    """The names in a checkpoint -> {canonical name: name in the checkpoint}, without what is `UNUSED`.

    Accepts a bare encoder (`BertModel`: no prefix `bert.`), and `gamma` and `beta` of a LayerNorm, as conversions from
    TensorFlow called them.

    Raises:
        ConfigError: two names mean the same parameter.

    Example:
        >>> canonical(["embeddings.LayerNorm.gamma", "cls.predictions.bias"])
        {'bert.embeddings.LayerNorm.weight': 'embeddings.LayerNorm.gamma'}
    """
    found: dict[str, str] = {}
    for stored in names:
        name = re.sub(r"\.LayerNorm\.gamma$", ".LayerNorm.weight", stored)
        name = re.sub(r"\.LayerNorm\.beta$", ".LayerNorm.bias", name)
        name = re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", name)
        if name in UNUSED:
            continue
        require(name not in found, f"{source}: {found.get(name)} and {stored} both mean {name}, one must go")
        found[name] = stored
    return found


def check_known(names: Iterable[str], config: ModelConfig, *, source: str = "parameters") -> None:
    """Refuse a name that is not in `leaves(config)`.

    Raises:
        ConfigError: naming it.
    """
    known = {leaf.name for leaf in leaves(config)}
    for name in names:
        require(name in known, f"{source}: {name} is unknown, must be a parameter of {describe(config)}")


def layer_of(name: str) -> int | None:
    """The encoder layer that a canonical name belongs to; None outside the layers."""
    match = _LAYER_NAME.match(name)
    return int(match[1]) if match else None


def describe(config: ModelConfig) -> str:
    """The dimensions in a few words, for errors."""
    return (
        f"a BERT of {config.num_hidden_layers} layers, width {config.hidden_size}, feed-forward "
        f"{config.intermediate_size}, vocabulary {config.vocab_size}, {config.num_labels} labels"
    )


def _walk(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _walk(value, (*path, key))
        else:
            yield (*path, key), value
