"""Our model against FlaxBertForSequenceClassification, which is in transformers until 4.57.6: `tox -e parity-flax`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import transformers
from parity_cases import Parity, rectangle

from sftref.config import ModelConfig
from sftref.data.tokens import TokenArrays
from sftref.model.names import Flat

assert transformers.__version__ == "4.57.6", f"transformers {transformers.__version__}, must be 4.57.6"

pytestmark = pytest.mark.parity_flax


class TestFlaxBert(Parity):
    """The peer of the article."""

    def peer(self, folder: Path, tokens: TokenArrays, config: ModelConfig, precision: str) -> tuple[np.ndarray, Flat]:
        """See `Parity.peer`; the losses are the article's."""
        dtype = jnp.dtype(precision)
        model = transformers.FlaxBertForSequenceClassification.from_pretrained(folder, dtype=dtype)
        inputs = rectangle(tokens)

        def loss(params: dict) -> tuple[jax.Array, jax.Array]:
            logits = model(**inputs, params=params, train=False).logits
            if config.regression:
                return jnp.mean((logits[..., 0] - tokens.labels) ** 2), logits
            one_hot = jax.nn.one_hot(tokens.labels, config.num_labels, dtype=dtype)
            return jnp.mean(optax.softmax_cross_entropy(logits, one_hot)), logits

        (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)
        flat = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(gradients)):
            *modules, kind = (str(key.key) for key in path)
            name = ".".join([*modules, "bias" if kind == "bias" else "weight"])
            flat[name] = leaf.T if kind == "kernel" else leaf
        return np.asarray(logits), flat
