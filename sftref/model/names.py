"""Our parameter tree <-> a flat dict of NumPy arrays, with the names and layouts of a Hugging Face BERT checkpoint.

    embeddings / word_embeddings / embedding [V, D]    bert.embeddings.word_embeddings.weight [V, D]
    layer_0 / attention / query / kernel [in, out]     bert.encoder.layer.0.attention.self.query.weight [out, in]
    layer_0 / attention / LayerNorm / scale [D]        bert.encoder.layer.0.attention.output.LayerNorm.weight [D]

Gradients and Adam's moments are trees of the same form. Source of the names: `BertForSequenceClassification` in
https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/modeling_bert.py
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from flax import traverse_util

from sftref.config import ModelConfig, require

Params: TypeAlias = dict[str, Any]  # nested like Flax's `init(...)["params"]`, with arrays as leaves
Flat: TypeAlias = dict[str, np.ndarray]

# The classifier and the pooler before it. A pre-trained checkpoint may lack them; fine-tuning initializes them.
POOLER = "bert.pooler.dense"
OPTIONAL = (POOLER, "classifier")

# Buffers and pre-training heads in BERT checkpoints that classification does not use. Any other unknown name is an
# error: our results would lack that parameter.
_HEADS = ("predictions.decoder", "predictions.transform.LayerNorm", "predictions.transform.dense", "seq_relationship")
UNUSED = frozenset(
    {
        # Buffers: 0, 1, 2, ..., stored until transformers 4.31, and zeros.
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
        "cls.predictions.bias",
        *(f"cls.{head}.{kind}" for head in _HEADS for kind in ("bias", "weight")),
    }
)

# Our name of a module -> its name in a checkpoint, for modules within a layer and for the others.
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


# Wrappers of PyTorch that add a component to the name of each parameter in them: DataParallel and
# DistributedDataParallel, torch.compile, FullyShardedDataParallel, checkpoint_wrapper.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_TABLE = "embeddings.word_embeddings.weight"
# Encoders with parameters of the same names that compute something else.
_OTHER_MODELS = ("albert", "camembert", "deberta", "distilbert", "electra", "ernie", "mobilebert", "roberta")


class Leaf(NamedTuple):
    """One parameter: its name and shape in a checkpoint, and its path in our tree."""

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]

    @property
    def transposed(self) -> bool:
        """Whether the two layouts differ: a kernel is [out, in] in a checkpoint and [in, out] in our tree."""
        return self.path[-1] == "kernel"


def leaves(config: ModelConfig) -> tuple[Leaf, ...]:
    """All parameters of a model, from the embeddings to the classifier."""
    d, f = config.hidden_size, config.intermediate_size
    in_layer = {inner: (d,) if inner.endswith("LayerNorm") else (d, d) for inner in _IN_LAYER}
    in_layer |= {"intermediate": (f, d), "output": (d, f)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings/word_embeddings": (config.vocab_size, d),
        "embeddings/position_embeddings": (config.max_position_embeddings, d),
        "embeddings/token_type_embeddings": (config.type_vocab_size, d),
        "embeddings/LayerNorm": (d,),
        **{f"layer_{i}/{m}": shape for i in range(config.num_hidden_layers) for m, shape in in_layer.items()},
        "pooler": (d, d),
        "classifier": (config.num_labels, d),
    }
    parameters: list[Leaf] = []
    for module, shape in shapes.items():
        path, theirs = tuple(module.split("/")), _hf_module(module)
        table = path[-1].endswith("embeddings")
        kind = "embedding" if table else "scale" if path[-1] == "LayerNorm" else "kernel"
        parameters.append(Leaf(f"{theirs}.weight", shape, (*path, kind)))
        if not table:
            parameters.append(Leaf(f"{theirs}.bias", shape[:1], (*path, "bias")))
    return tuple(parameters)


def to_hf(params: Mapping[str, Any]) -> Flat:
    """Our tree -> a flat dict under the names of a checkpoint, in its layouts.

    Args:
        params: the tree of `BertForSequenceClassification.init(...)["params"]`, or a tree of this form. Its leaves are
            NumPy or JAX arrays; the result keeps their dtypes.

    Returns:
        NumPy arrays in C order; an array that needs no transposition may share memory with its leaf.

    Raises:
        ValueError: a path is no parameter of the model.
    """
    flat: Flat = {}
    for path, leaf in traverse_util.flatten_dict(dict(params)).items():
        *modules, kind = path
        theirs = _hf_module("/".join(modules))
        if theirs is None or kind not in ("kernel", "embedding", "scale", "bias"):
            raise ValueError(f"params path = {'/'.join(path)!r}, must be a parameter of BertForSequenceClassification")
        value = np.asarray(leaf)
        name = f"{theirs}.{'bias' if kind == 'bias' else 'weight'}"
        flat[name] = np.ascontiguousarray(value.T if kind == "kernel" else value)
    return flat


def from_hf(flat: Mapping[str, Any], config: ModelConfig, *, source: str = "parameters") -> Params:
    """A flat dict under the names of a checkpoint -> our tree; the inverse of `to_hf`.

    Args:
        flat: exactly the parameters in `leaves(config)`; the result keeps their dtypes.
        config: gives names and shapes.
        source: the name of the dict in error messages.

    Returns:
        Nested dicts of NumPy arrays in C order.

    Raises:
        ConfigError: a parameter is unknown, missing, or of another shape.
    """
    check_known(flat, config, source=source)
    params: dict[tuple[str, ...], np.ndarray] = {}
    for leaf in leaves(config):
        require(
            leaf.name in flat,
            f"{source}: {leaf.name} {list(leaf.shape)} is missing; give a complete checkpoint of {describe(config)}",
        )
        value = np.asarray(flat[leaf.name])
        require(
            value.shape == leaf.shape,
            f"{source}: {leaf.name} has shape {list(value.shape)}, must be {list(leaf.shape)} for {describe(config)}",
        )
        params[leaf.path] = np.ascontiguousarray(value.T if leaf.transposed else value)
    return dict(traverse_util.unflatten_dict(params))


def canonical(names: Iterable[str], *, source: str = "parameters") -> dict[str, str]:
    """The names in a checkpoint -> {canonical name: name in the checkpoint}, without those in `UNUSED`.

    Accepts the names of a bare encoder (`BertModel`, without the prefix `bert.`); `gamma` and `beta` of a LayerNorm,
    its names in checkpoints converted from TensorFlow; and names in a wrapper: `module.` (DataParallel), `_orig_mod.`
    (torch.compile), or any module that has the BERT as an attribute, such as `model.bert.`.

    Raises:
        ConfigError: two names mean the same parameter.

    Example:
        >>> canonical(["embeddings.LayerNorm.gamma", "cls.predictions.bias"])
        {'bert.embeddings.LayerNorm.weight': 'embeddings.LayerNorm.gamma'}
    """
    stored: dict[str, str] = {}
    unwrapped = {old: re.sub(rf"(^|\.)({'|'.join(_WRAPPERS)})(?=\.)", "", old).removeprefix(".") for old in names}
    prefixes = {name.removesuffix(_TABLE) for name in unwrapped.values() if name.endswith(_TABLE)}
    prefix = re.sub(r"(^|\.)bert\.$", r"\1", prefixes.pop()) if len(prefixes) == 1 else ""
    if prefix.rstrip(".").rpartition(".")[2] in _OTHER_MODELS:
        prefix = ""
    for old, short in unwrapped.items():
        name = re.sub(r"\.LayerNorm\.gamma$", ".LayerNorm.weight", short.removeprefix(prefix))
        name = re.sub(r"\.LayerNorm\.beta$", ".LayerNorm.bias", name)
        name = re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", name)
        if name not in UNUSED:
            require(name not in stored, f"{source}: {stored.get(name)} and {old} both mean {name}; remove one")
            stored[name] = old
    return stored


def check_known(names: Iterable[str], config: ModelConfig, *, source: str = "parameters") -> None:
    """Check that every name is in `leaves(config)`.

    Raises:
        ConfigError: a name is unknown.
    """
    known = {leaf.name for leaf in leaves(config)}
    for name in names:
        require(
            name in known,
            f"{source}: {name} is unknown, must be a parameter of {describe(config)}"
            + (
                ""
                if name.startswith("bert.")
                else "; if it is another head's, train a new one: sftref train --fresh-head"
            ),
        )


def layer_of(name: str) -> int | None:
    """The number of the encoder layer in a canonical name; None if the name has no layer."""
    match = re.match(r"bert\.encoder\.layer\.(\d+)\.", name)
    return int(match[1]) if match else None


def describe(config: ModelConfig) -> str:
    """The model's dimensions in a few words, for error messages."""
    return (
        f"a BERT of {config.num_hidden_layers} layers, width {config.hidden_size}, feed-forward "
        f"{config.intermediate_size}, vocabulary {config.vocab_size}, {config.num_labels} labels"
    )


def _hf_module(ours: str) -> str | None:
    """The path of one of our modules -> its name in a checkpoint; None for an unknown module."""
    layer = re.fullmatch(r"layer_(\d+)/(.+)", ours)
    if layer is None:
        return _OUTSIDE.get(ours)
    inner = _IN_LAYER.get(layer[2])
    return inner and f"bert.encoder.layer.{int(layer[1])}.{inner}"
