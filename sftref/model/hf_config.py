"""config.json <-> `ModelConfig`."""

from collections.abc import Mapping, Sequence
from typing import Any

from sftref.config import ConfigError, ModelConfig, require
from sftref.model.classes import SINGLE_LABEL
from sftref.model.weights import CONFIG

# Entries of `config.json`. SIZES are required. SETTINGS are optional, with BERT's defaults in `ModelConfig`. FIXED
# entries are optional too, but must have these values, because this model computes nothing else.
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SETTINGS = (
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "classifier_dropout", "initializer_range",
)  # fmt: skip
HEAD = "BertForSequenceClassification"
# Classes without a classifier: where there is one, a program of the user has added it and kept config.json.
HEADLESS = frozenset({"BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForNextSentencePrediction"})
FIXED = {
    "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
}  # fmt: skip


def model_config(
    hf_config: Mapping[str, Any], source: str, num_labels: int, regression: bool, num_layers: int | None
) -> ModelConfig:
    """The content of config.json -> a ModelConfig. Raises ConfigError unless this model can compute that BERT."""
    kind = hf_config.get("model_type")
    # `sftref train --out` writes another file of this name.
    require(
        not {"task", "trainer"} <= hf_config.keys(),
        f"{source}: has the records of a run and no model; "
        "`sftref train --resume DIR --save MODEL` writes the model from a checkpoint",
    )
    advice = "choose a BERT" if kind else 'choose a BERT, or add "model_type": "bert" if it is one'
    require(kind == "bert", f"{source}: model_type in {CONFIG} = {kind!r}, must be 'bert'; {advice}")
    for name, value in FIXED.items():
        got = hf_config.get(name, value)
        require(got == value, f"{source}: {name} in {CONFIG} = {got!r}, must be {value!r}; choose another checkpoint")
    for name in SIZES:
        require(name in hf_config, f"{source}: {name} is missing in {CONFIG}; download it again")
    values = {name: hf_config[name] for name in (*SIZES, *SETTINGS) if name in hf_config}
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        require(
            number or (value is None and name == "classifier_dropout"),
            f"{source}: {name} in {CONFIG} = {value!r}, must be a number; download it again",
        )
    layers = values["num_hidden_layers"]
    if num_layers is not None:
        require(num_layers <= layers, f"--num-layers = {num_layers}, must be at most {layers}, the layers of {source}")
        values["num_hidden_layers"] = num_layers
    try:
        return ModelConfig(**values, num_labels=num_labels, regression=regression)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def export_config(
    config: ModelConfig, hf_config: Mapping[str, Any], label_names: Sequence[str] = (), dtype: str = "float32"
) -> dict[str, Any]:
    """The config.json of a fine-tuned model.

    Raises:
        ConfigError: the number of `label_names` is not the number of labels.
    """
    names = list(label_names) or [f"LABEL_{i}" for i in range(config.num_labels)]
    require(
        len(names) == config.num_labels,
        f"label_names = {', '.join(names)}, must be {config.num_labels}, the model's num_labels",
    )
    # Entries of the earlier checkpoint that are left out: its path, versions, task, tokenizer and code, and the old
    # spelling of `dtype`.
    stale = (
        "_name_or_path", "transformers_version", "torch_dtype", "num_labels", "finetuning_task", "tokenizer_class",
        "auto_map",
    )  # fmt: skip
    return (
        {key: value for key, value in hf_config.items() if key not in stale}
        | {name: getattr(config, name) for name in (*SIZES, *SETTINGS)}
        | FIXED
        | {
            "architectures": [HEAD],
            "dtype": dtype,
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
            "model_type": "bert",
            "num_labels": config.num_labels,
            "problem_type": "regression" if config.regression else SINGLE_LABEL,
        }
    )
