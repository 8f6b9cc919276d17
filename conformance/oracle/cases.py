"""Capabilities of a trainer -> the case it is tested with, and start parameters: the few fixed shapes of the kit.

Each shape costs a compilation of seconds, so laws share these shapes and vary values.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..adapter import MOST_TOKENS, Case, shapes
from .tape import Params

# Rows of a batch and tokens of a row. 16 rows are two on each of 8 devices, and no multiple of 3 or 6.
B, L = 16, MOST_TOKENS

# Two layers, since the classifier reads the last one at [CLS] only. Sizes are chosen so that swapped axes do not fit.
# Adam's and LayerNorm's constants are no library's defaults, and no two rates are equal: so a constant that a trainer
# hard-codes, or takes from the wrong field, gives a wrong result.
MAIN = Case(
    vocab_size=67, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=56,
    max_position_embeddings=L, num_labels=3, layer_norm_eps=1e-2,
    hidden_dropout=0.1, attention_dropout=0.15, classifier_dropout=0.3,
    learning_rate=1e-3, weight_decay=0.1, b1=0.8, b2=0.95, eps=1e-5, clip_norm=1.0, warmup_steps=3, total_steps=50,
)  # fmt: skip
NOTHING: Mapping[str, Any] = {}
NO_DROPOUT: dict[str, Any] = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
# One narrow layer with BERT's constants, for laws that compile a program for each case, such as those of the schedule.
# Not narrower: with 8 features a row's variance can be so small that rounding errs beyond its bound, as one of 600
# gradients did (1.08 of the bound; with 16 features the largest of 600 was 0.27).
SMALL = dataclasses.replace(
    MAIN, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, layer_norm_eps=1e-12,
    b1=0.9, b2=0.999, eps=1e-6, **NO_DROPOUT,
)  # fmt: skip


def main_case(
    capabilities: frozenset[str], *, seed: int = 0, small: bool = False, fixed: Mapping[str, Any] = NOTHING
) -> Case:
    """The case for a trainer with these capabilities: dropout, weights and padding rows only if they are claimed.

    Its `fixed` fields have the values that the trainer cannot change.
    """
    claimed = {"weighted": "weights" in capabilities, "padding_rows": "padding rows" in capabilities}
    rates = {} if "dropout" in capabilities else NO_DROPOUT
    changes: dict[str, Any] = {"seed": seed, **claimed, **rates, **fixed}
    return dataclasses.replace(SMALL if small else MAIN, **changes)


def start_params(case: Case, rng: np.random.Generator) -> Params:
    """Random parameters, float32 values in float64 arrays, none of them a neutral 0 or 1.

    Weights have variance 2.25 / inputs, so that attention is neither flat nor saturated and no gradient is negligible.
    """
    params: Params = {}
    for name, shape in shapes(case).items():
        noise = rng.standard_normal(shape)
        if name.endswith("LayerNorm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.3 * noise
        elif "embeddings" in name:
            value = noise
        else:
            value = noise * (1.5 / math.sqrt(shape[1]))
        params[name] = value.astype(np.float32).astype(np.float64)
    return params
