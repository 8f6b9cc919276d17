"""Functions for tests of the kit: one law in this process, small cases, parameters, weighted batches, the oracle."""

import dataclasses
from typing import Any

import helpers
import numpy as np
from sftref.conformance.adapter import Case, HostBatch
from sftref.conformance.adapters.sftref import lay_out, model_config
from sftref.conformance.core.check import Check
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.laws.support import call
from sftref.conformance.oracle.masks import Masks
from sftref.conformance.oracle.model import Network

from sftref.config import ModelConfig
from sftref.data.batches import Batch
from sftref.data.tokens import TokenArrays
from sftref.model.names import to_hf

QUICK = Settings(level="quick")
B, L = 6, 8
PLAIN = Case(
    vocab_size=19, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
    max_position_embeddings=L, num_labels=3,
)  # fmt: skip
DROPPED = dataclasses.replace(PLAIN, hidden_dropout=0.1, attention_dropout=0.2, classifier_dropout=0.3, seed=2**40 + 7)
REGRESSION = dataclasses.replace(DROPPED, num_labels=1, regression=True)


def params_of(case: Case) -> dict[str, np.ndarray]:
    """Random parameters, none at its neutral value, because a zero or a one would hide faults."""
    rng = np.random.default_rng(1)
    blank = to_hf(helpers.parameters(model_config(case)))
    return {name: leaf * 0 + rng.normal(0.4, 0.5, leaf.shape) for name, leaf in blank.items()}


def batch_of(case: Case, seed: int = 2) -> HostBatch:
    """Ragged examples of unequal weights; the last row is padding with garbage."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(L) < rng.integers(3, L + 1, B)[:, None]).astype(np.int32)
    labels = rng.normal(2, 1, B).astype(np.float32) if case.regression else rng.integers(0, case.num_labels, B)
    return HostBatch(
        input_ids=np.where(mask, rng.integers(0, case.vocab_size, (B, L)), 10**6).astype(np.int32),
        token_type_ids=np.where(mask, rng.integers(0, 2, (B, L)), -5).astype(np.int32),
        attention_mask=mask,
        labels=labels.astype(np.float32 if case.regression else np.int32),
        weights=np.array([1, 0.5, 2, 1, 0.25, 0], np.float32),
        example_ids=rng.integers(0, 2**32, B, dtype=np.uint32),
    )


def host_batch(tokens: TokenArrays, filler: int = 0) -> HostBatch:
    """All examples with weight 1, padded to the longest; `filler` is the id of padding."""
    mask = (np.arange(tokens.lengths.max()) < tokens.lengths[:, None]).astype(np.int32)

    def rows(values: np.ndarray, padding: int) -> np.ndarray:
        out = np.full(mask.shape, padding, np.int32)
        out[mask > 0] = values
        return out

    ids, types = rows(tokens.input_ids, filler), rows(tokens.token_type_ids, 0)
    return HostBatch(ids, types, mask, tokens.labels, np.ones(len(tokens), np.float32), tokens.example_ids)


def oracle_logits(
    params: Any, model: ModelConfig, tokens: TokenArrays, address: tuple[int, int] | None = None
) -> np.ndarray:
    """Logits [n, C] of the kit's oracle, which is NumPy float64 and has no code of `sftref`.

    `address` is (seed, step) for dropout, None for evaluation.
    """
    shared = {name: value for name, value in vars(model).items() if name in Case.__dataclass_fields__}
    rates = {
        "hidden_dropout": model.hidden_dropout_prob,
        "attention_dropout": model.attention_probs_dropout_prob,
        "classifier_dropout": model.head_dropout,
    }
    case = Case(**shared | rates)
    return Network(case, to_hf(params), host_batch(tokens), address and Masks(*address)).logits()[0]


def device_batch(batch: HostBatch) -> Batch:
    return lay_out(batch, PLAIN, 1)[0]


def relative(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
    assert got.keys() == want.keys()
    error = sum(float(((got[k] - want[k]) ** 2).sum()) for k in want)
    return (error / sum(float((want[k] ** 2).sum()) for k in want)) ** 0.5


def run_law(law: str, settings: Settings = QUICK, **instead: Any) -> Check:
    """Run a law as pytest would, with the values `instead` of its fixtures. Returns its check, or raises its error.

    It looks for no cause of a failure, which takes seconds.
    """
    check = Check(laws()[law], settings.level, settings.seed, narrows=False)
    call.run(check, settings, instead)
    return check


def numbers() -> np.random.Generator:
    return np.random.default_rng(0)
