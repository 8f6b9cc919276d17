"""The adapter interface: the methods by which the kit calls a trainer under test. They take and return NumPy arrays.

Parameters and gradients are flat dicts under the names and layouts of a Hugging Face BERT checkpoint
(`bert.encoder.layer.0.attention.self.query.weight`, shape (out, in)), so that any BERT can plug in. A trainer under
test implements `start`, `step`, `evaluate` and `params`; each other method belongs to a capability. If a trainer does
not claim a capability, the laws that need it are reported as not run, never as passed.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

# Optional method -> the capability that says that a trainer has the method.
OPTIONAL_METHODS = {
    "gradients": "gradients",
    "moments": "moments",
    "replicas": "replicas",
    "program": "program",
    "lowered": "lowering",
    "costs": "costs",
    "parts": "parts",
    "save": "checkpoint",
    "restore": "checkpoint",
    "epoch": "data order",
    "score": "metrics",
}
# Capabilities without a method: the trainer uses several `devices`; keeps its state in `jax` arrays; supports a feature
# of `Case`; or uses the devices of several `processes`, each of which makes the same calls with the same whole batches.
CAPABILITIES = frozenset(OPTIONAL_METHODS.values()) | {
    "devices", "jax", "dropout", "packing", "padding rows", "accumulation", "weights", "processes", "precision:bf16",
    "precision:float64",
}  # fmt: skip

# A model needs at least as many positions; only runs of `training.settings` use longer examples, if it has more.
MOST_TOKENS = 16
# Fields of `Case` that follow from the capabilities or the run's seed, and that no trainer can fix.
NEVER_FIXED = ("seed", "precision", "pack", "accumulate", "weighted", "padding_rows")
# The name of an adapter, as messages give it.
EXAMPLE = "sftref.conformance.adapters.sftref:mesh"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training run: the model's dimensions, dropout, the optimizer's constants, the number of updates.

    Shapes in the kit are written with B examples, L tokens, D width, H heads, F feed-forward, V vocabulary, C classes.
    Some values need a capability: a dropout rate above 0 needs `dropout` (masks as in `oracle/masks.py`), `pack`
    (several examples in a row) needs `packing`, and `accumulate` > 1 (micro-batches in an update) needs `accumulation`.
    `weighted` batches (weights other than 0 and 1) need `weights`; another `precision` needs `precision:...`. Batches
    with rows of weight 0, or rows that do not divide among the devices, need `padding rows`, as `padding_rows` says.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    num_labels: int = 2
    regression: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    clip_norm: float | None = None
    warmup_steps: int = 0
    total_steps: int = 50
    seed: int = 0
    precision: str = "float32"
    pack: bool = False
    accumulate: int = 1
    weighted: bool = True
    padding_rows: bool = True

    @property
    def config(self) -> dict[str, Any]:
        """The model's dimensions and dropout rates under the names of a Hugging Face `config.json`."""
        same = (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "num_labels", "classifier_dropout",
        )  # fmt: skip
        rates = {"hidden_dropout_prob": self.hidden_dropout, "attention_probs_dropout_prob": self.attention_dropout}
        return {name: getattr(self, name) for name in same} | rates

    @property
    def dropout(self) -> bool:
        """Whether any dropout rate is above 0."""
        return any((self.hidden_dropout, self.attention_dropout, self.classifier_dropout))


class HostBatch(NamedTuple):
    """The B examples of one update, padded to L tokens; a row of weight 0 is padding and may have any values."""

    input_ids: npt.NDArray[np.int32]  # [B, L]
    token_type_ids: npt.NDArray[np.int32]  # [B, L]
    attention_mask: npt.NDArray[np.int32]  # [B, L]; 1 for tokens, which come first, 0 for padding
    labels: npt.NDArray[Any]  # [B]; int32, or float32 for regression
    weights: npt.NDArray[np.float32]  # [B]
    example_ids: npt.NDArray[np.uint32]  # [B]


class StepResult(NamedTuple):
    """The result of one update: the weighted mean loss over the whole batch, and the learning rate applied."""

    loss: float
    learning_rate: float


class TrainerUnderTest(Protocol):
    """A data-parallel trainer, as the kit calls it.

    It may also have an attribute `fixed`: a dict of fields of `Case` whose values the trainer cannot change, such as
    `{"eps": 1e-6, "clip_norm": None}`. Every case then has these values, and the report lists them.
    """

    name: str
    capabilities: frozenset[str]

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """Begin a run at step 0 from `params` on `n_devices` devices; called once for each run."""

    def step(self, batch: HostBatch) -> StepResult:
        """Make one update with this batch."""

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        """Logits [B, C] without dropout, in the order of the batch; rows of weight 0 may have any values."""

    def params(self) -> Arrays:
        """The current parameters."""

    def gradients(self, batch: HostBatch) -> Arrays:
        """The gradient of the mean loss, reduced over all devices and not clipped; the parameters stay as they are."""

    def moments(self) -> tuple[Arrays, Arrays]:
        """Adam's current first and second moments, before bias correction."""

    def replicas(self) -> Sequence[Arrays]:
        """For each device, the parameters as that device holds them."""

    def program(self, batch: HostBatch) -> str:
        """The compiled update for batches of this shape, as HLO text."""

    def lowered(self, batch: HostBatch, platform: str) -> str:
        """The update for batches of this shape as StableHLO text, lowered for cpu, cuda, rocm or tpu.

        The platform need not be present. For a jitted function:
        `f.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()`.
        """

    def costs(self, batch: HostBatch) -> Mapping[str, float]:
        """What the compiled update for batches of this shape costs on each device, as JAX counts it.

        The keys are `flops`; `bytes`, read and written; and, for bytes of memory, `arguments`, `outputs`, `aliased`
        (donated arguments reused for outputs) and `temporary`. Keys that this JAX does not report are left out.
        `adapters/costs.py` computes these costs from a compiled program.
        """

    def parts(self, batch: HostBatch) -> Mapping[str, Callable[[], Any]]:
        """Name -> a function that runs this part of an update once and waits for its result, for `sftref bench`.

        Possible names: `forward`, `forward_backward`, `all_reduce`, `optimizer`, and `input`, which makes and places a
        batch of the same size. No function changes the state of the run.
        """

    def epoch(self, examples: int, batch_size: int, number: int) -> Sequence[npt.NDArray[Any]]:
        """The batches of epoch `number` over `examples` examples, in training order; each an array of indices.

        If the run has several processes, these are the indices that this process reads.
        """

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """`accuracy` and `f1` (of class 1) over the examples of all batches, by the trainer's own evaluation."""

    def save(self, path: Path) -> None:
        """Write the whole state to the folder `path`."""

    def restore(self, path: Path) -> None:
        """Restore the state that `save` wrote, on the devices of the last `start`."""


class AdapterError(Exception):
    """An adapter cannot be loaded or does not implement the interface; the message says what it must have."""

    def __init__(self, message: str, adapter: str) -> None:
        super().__init__(f"--adapter {adapter}: {message}")


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a BERT classifier by its Hugging Face name; linear weights are (out, in)."""
    d, f = case.hidden_size, case.intermediate_size
    table: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (case.vocab_size, d),
        "bert.embeddings.position_embeddings.weight": (case.max_position_embeddings, d),
        "bert.embeddings.token_type_embeddings.weight": (case.type_vocab_size, d),
    }

    def norm(name: str) -> None:
        table.update({f"{name}.weight": (d,), f"{name}.bias": (d,)})

    def linear(name: str, outputs: int, inputs: int) -> None:
        table.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    norm("bert.embeddings.LayerNorm")
    for layer in range(case.num_hidden_layers):
        name = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{name}.attention.self.{part}", d, d)
        linear(f"{name}.attention.output.dense", d, d)
        norm(f"{name}.attention.output.LayerNorm")
        linear(f"{name}.intermediate.dense", f, d)
        linear(f"{name}.output.dense", d, f)
        norm(f"{name}.output.LayerNorm")
    linear("bert.pooler.dense", d, d)
    linear("classifier", case.num_labels, d)
    return table


def load_adapter(name: str) -> TrainerUnderTest:
    """`package.module:factory` -> the trainer that the factory returns; an `AdapterError` says why there is none."""
    module_name, colon, factory_name = name.partition(":")
    if not colon or not module_name or not factory_name:
        raise AdapterError(f"must be MODULE:FACTORY, as in {EXAMPLE}", name)
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        message = f"cannot be found ({error}); give a module and the name of a callable in it, as in {EXAMPLE}"
        raise AdapterError(message, name) from error
    except (Exception, SystemExit) as error:
        raise AdapterError(f"could not be imported ({type(error).__name__}: {error})", name) from error
    if not callable(factory):
        raise AdapterError(f"is a {type(factory).__name__}, must be a class or a function without arguments", name)
    try:
        subject: TrainerUnderTest = factory()
    except (Exception, SystemExit) as error:
        raise AdapterError(f"could not be made ({type(error).__name__}: {error})", name) from error
    check_adapter(subject, name)
    return subject


def check_adapter(subject: Any, name: str) -> None:
    """Raise an `AdapterError` that names the first attribute, method or capability that breaks the interface."""
    for attribute, kind in (("name", str), ("capabilities", frozenset)):
        value = getattr(subject, attribute, None)
        if not isinstance(value, kind):
            raise AdapterError(f"{attribute} = {value!r}, must be a {kind.__name__}", name)
    unknown = sorted(subject.capabilities - CAPABILITIES)
    if unknown:
        known = ", ".join(sorted(CAPABILITIES))
        raise AdapterError(f"capability {unknown[0]!r} is unknown, must be one of {known}", name)
    required = ["start", "step", "evaluate", "params"]
    required += [method for method, claim in OPTIONAL_METHODS.items() if claim in subject.capabilities]
    for method in required:
        if not callable(getattr(subject, method, None)):
            raise AdapterError(f"has no method {method}(), which it must have", name)
    if not isinstance(fixed_of(subject), Mapping):
        raise AdapterError(f"fixed = {subject.fixed!r}, must be a dict of fields of Case", name)
    for field, value in fixed_of(subject).items():
        message = _wrong_constant(field, value, subject)
        if message:
            raise AdapterError(f"fixed[{field!r}] = {value!r}, {message}", name)


def fixed_of(subject: Any) -> Mapping[str, Any]:
    """The fields of `Case` whose values a trainer cannot change; empty for most trainers."""
    fixed: Mapping[str, Any] = getattr(subject, "fixed", {})
    return fixed


def _wrong_constant(field: Any, value: Any, subject: Any) -> str:
    """Why a trainer cannot fix a field at a value, in words; empty if it can."""
    kinds = {name: kind for name, kind in Case.__annotations__.items() if name not in NEVER_FIXED}
    if field not in kinds:
        return f"must be one of {', '.join(kinds)}"
    if value is None and field == "clip_norm":
        return ""
    kind = float if field == "clip_norm" else kinds[field]
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
        return f"must be {'None or ' if field == 'clip_norm' else ''}a {kind.__name__}"
    least = MOST_TOKENS if field == "max_position_embeddings" else 0
    if not least <= value < math.inf:
        return f"must be a finite number, at least {least}"
    if field.endswith("_dropout") and value and "dropout" not in subject.capabilities:
        return "must be 0 for a trainer that does not claim dropout"
    if field == "regression" and value and subject.fixed.get("num_labels") != 1:
        return "needs num_labels = 1, fixed too"
    return ""
