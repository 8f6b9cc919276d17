"""What the kit's own tests share: small cases, parameters that are nowhere neutral, ragged and weighted batches."""

from __future__ import annotations

import dataclasses

import helpers
import numpy as np
from sftref.conformance.adapter import Case, HostBatch
from sftref.conformance.adapters.sftref import lay_out, model_config

from sftref.data.batches import Batch
from sftref.model.names import to_hf

B, L = 6, 8
PLAIN = Case(
    vocab_size=19, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
    max_position_embeddings=L, num_labels=3,
)  # fmt: skip
DROPPED = dataclasses.replace(PLAIN, hidden_dropout=0.1, attention_dropout=0.2, classifier_dropout=0.3, seed=2**40 + 7)
REGRESSION = dataclasses.replace(DROPPED, num_labels=1, regression=True)


def params_of(case: Case) -> dict[str, np.ndarray]:
    """Every parameter random and none at its neutral value, so that no fault hides behind a zero or a one."""
    rng = np.random.default_rng(1)
    blank = to_hf(helpers.parameters(model_config(case)))
    return {name: leaf * 0 + rng.normal(0.4, 0.5, leaf.shape) for name, leaf in blank.items()}


def batch_of(case: Case, seed: int = 2) -> HostBatch:
    """Ragged examples of unequal weights, the last row padding that holds garbage."""
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


def device_batch(batch: HostBatch) -> Batch:
    return lay_out(batch, PLAIN, 1)[0]


def relative(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
    assert got.keys() == want.keys()
    error = sum(float(((got[k] - want[k]) ** 2).sum()) for k in want)
    return (error / sum(float((want[k] ** 2).sum()) for k in want)) ** 0.5
