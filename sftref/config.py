"""Options of a run -> a frozen, complete, validated configuration. Uses no JAX, files or environment variables.

The axes in all shapes of this package:

    K  micro-batches of one update          B  examples of one update
    R  rows of tokens in a batch            L  length of a row, in tokens
    S  slots: examples in a row, at most    D  hidden width
    H  attention heads                      C  classes (1 for regression)
    V  vocabulary                           N  devices
    F  feed-forward width                   T  tokens of a whole data set, end to end
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TrainerName = Literal["single", "pmap", "mesh", "shard_map"]
DropoutMode = Literal["addressed", "article", "off"]
Precision = Literal["float32", "bfloat16", "float64"]

TRAINERS: tuple[TrainerName, ...] = ("single", "pmap", "mesh", "shard_map")
DROPOUT_MODES: tuple[DropoutMode, ...] = ("addressed", "article", "off")
# From the outermost axis to the innermost. `tensor` sends most data, so it connects neighbouring devices.
MESH_AXES = ("data", "fsdp", "tensor")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float64")

# Limits from the 32 bits in a dropout address (`model/dropout.py`): for attention, 8 bits of head group and 12 bits
# each of query and key position; elsewhere, 16 bits each of position and feature.
MAX_ADDRESSED_POSITIONS = 1 << 12
MAX_ADDRESSED_FEATURES = 1 << 16


class ConfigError(ValueError):
    """A user's choice breaks a rule; the message names the argument, the rule, both values and what to do."""


class NonFiniteError(RuntimeError):
    """A loss of an update, or a logit of an evaluation, is NaN or infinite; the message names the examples."""


class ScoreError(RuntimeError):
    """A score differs from that of other people's code; the message has both."""


def one_line(error: BaseException) -> str:
    """Another library's error -> its text as one line of at most 160 characters, or its type if it has no text."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition` is true."""
    if not condition:
        raise ConfigError(message)


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    require(value in choices, f"{name} = {value!r}, must be one of {', '.join(choices)}")


def require_range(name: str, value: float, low: float, high: float = math.inf, *, low_open: bool = False) -> None:
    """Raise `ConfigError` unless `low <= value <= high` (`low < value` where `low_open`); NaN never passes."""
    inside = low < value <= high if low_open else low <= value <= high
    left = "more than" if low_open else "at least"
    upper = f" and at most {high:g}" if math.isfinite(high) else ""
    require(inside and math.isfinite(value), f"{name} = {value:g}, must be {left} {low:g}{upper}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The dimensions of a BERT for sequence classification, under the names of a Hugging Face `config.json`.

    `num_labels` is C. With `regression` the head gives one real number, trained with a squared error (GLUE's STS-B).

    Raises:
        ConfigError: a size is not positive, the width is not divisible by the heads, or a dropout address would
            overflow.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # None: hidden_dropout_prob, as in BERT
    initializer_range: float = 0.02
    num_labels: int = 2
    regression: bool = False

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size", "num_labels",
        ):  # fmt: skip
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, f"model {name} = {value!r}, must be a positive integer")
        width, heads = self.hidden_size, self.num_attention_heads
        require(width % heads == 0, f"model hidden_size = {width}, must be divisible by num_attention_heads = {heads}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            require_range(f"model {name}", getattr(self, name), 0.0, 0.99)
        if self.classifier_dropout is not None:
            require_range("model classifier_dropout", self.classifier_dropout, 0.0, 0.99)
        require_range("model layer_norm_eps", self.layer_norm_eps, 0.0, low_open=True)
        require_range("model max_position_embeddings", self.max_position_embeddings, 1, MAX_ADDRESSED_POSITIONS)
        require_range("model hidden_size", self.hidden_size, 1, MAX_ADDRESSED_FEATURES)
        labels = self.num_labels
        require(not self.regression or labels == 1, f"model num_labels = {labels}, must be 1 for regression")

    @property
    def head_dropout(self) -> float:
        """The dropout rate before the classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear schedule.

    The defaults are the article's: `optax.adamw(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)`, a learning rate from
    2e-5 to 0 over all steps, no warm-up, no clipping, and no decay on biases and LayerNorm scales.

    Raises:
        ConfigError: a value is out of its range.
    """

    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        require_range("--learning-rate", self.learning_rate, 0.0, low_open=True)
        require_range("--weight-decay", self.weight_decay, 0.0)
        require_range("--warmup-steps", self.warmup_steps, 0)
        require_range("b1", self.b1, 0.0, 0.999999)
        require_range("b2", self.b2, 0.0, 0.99999999)
        require_range("eps", self.eps, 0.0, low_open=True)
        if self.clip_norm is not None:
            require_range("--clip-norm", self.clip_norm, 0.0, low_open=True)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that the results of a fine-tuning run depend on.

    Raises:
        ConfigError: a value is out of its range, or two values contradict each other.
    """

    task: str = "qqp"
    data: str = "bundled"
    model: str = "demo"
    num_layers: int | None = None  # None: all layers of the checkpoint
    fresh_head: bool = False  # initialize the classifier, whatever the checkpoint has
    trainer: TrainerName = "mesh"
    devices: int | None = None  # None: all (on a CPU-only machine: simulated ones, see `devices.py`)
    epochs: int = 3
    max_steps: int | None = None  # overrides epochs
    batch_size: int = 64  # over all devices
    eval_batch_size: int = 256
    max_length: int = 128
    accumulate: int = 1
    mesh: str | None = None  # data=2,fsdp=2,tensor=2; None: all devices along data
    remat: bool = False
    precision: Precision = "float32"
    dropout: DropoutMode = "addressed"
    pack: bool = True
    drop_last: bool = False
    seed: int = 0
    train_fraction: float = 1.0
    eval_fraction: float = 1.0
    eval_from: Literal["validation", "train"] = "validation"
    save_every: int | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        require_choice("--trainer", self.trainer, TRAINERS)
        require_choice("--dropout", self.dropout, DROPOUT_MODES)
        require_choice("--precision", self.precision, PRECISIONS)
        require_choice("--eval-from", self.eval_from, ("validation", "train"))
        for name in ("epochs", "batch_size", "eval_batch_size", "max_length", "accumulate"):
            require_range(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("num_layers", "devices", "max_steps", "save_every"):
            if getattr(self, name) is not None:
                require_range(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        require_range("--max-length", self.max_length, 8, MAX_ADDRESSED_POSITIONS)
        require_range("--seed", self.seed, 0, 2**64 - 1)
        require_range("--train-fraction", self.train_fraction, 0.0, 1.0, low_open=True)
        require_range("--eval-fraction", self.eval_fraction, 0.0, 1.0, low_open=True)
        micro, size = self.accumulate, self.batch_size
        require(micro <= size, f"--accumulate = {micro}, must be at most --batch-size = {size}")
        require(
            not (self.pack and self.dropout == "article"),
            "--pack with --dropout article: the article's masks are for padded rows; add --no-pack",
        )
        require(
            self.trainer != "single" or self.devices in (None, 1),
            f"--devices = {self.devices}, must be 1 with --trainer single; choose --trainer pmap or mesh",
        )
        shape = self.mesh_shape
        if shape is not None:
            count = math.prod(shape.values())
            require(self.trainer == "mesh", f"--trainer {self.trainer} has no mesh for --mesh; use --trainer mesh")
            require(
                self.devices in (None, count),
                f"--devices = {self.devices}, must be {count} with --mesh {self.mesh}; leave out one of them",
            )

    @property
    def mesh_shape(self) -> dict[str, int] | None:
        """Devices along each axis of `mesh`, in the order of `MESH_AXES`.

        Raises:
            ConfigError: `mesh` is not of the form AXIS=DEVICES,AXIS=DEVICES.
        """
        if self.mesh is None:
            return None
        sizes: dict[str, int] = {}
        for word in self.mesh.split(","):
            name, _, count = word.strip().partition("=")
            require(
                name in MESH_AXES and name not in sizes and count.isdecimal() and int(count) > 0,
                f"--mesh {self.mesh}: {word.strip()!r}, must be AXIS=DEVICES, each of {', '.join(MESH_AXES)} at most "
                "once, as in data=2,fsdp=2,tensor=2",
            )
            sizes[name] = int(count)
        return {axis: sizes.get(axis, 1) for axis in MESH_AXES}

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`."""
        values = dict(values)
        return cls(optim=OptimConfig(**values.pop("optim")), **values)
