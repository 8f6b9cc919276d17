"""Equinox's BERT example, `docs/examples/bert.ipynb`, behind the adapter interface: its own steps.

The notebook is in no package: run in its folder, or add the folder to PYTHONPATH. Its step takes the optimizer as an
argument, which is AdamW with the case's constants here. The adapter hides the dropout layers' flags from the optimizer,
since the notebook's own `optax.adam` refuses them in optax 0.2.8. The loss is what its progress bar shows.

    sftref verify --adapter sftref.conformance.adapters.examples.equinox_bert:EquinoxBert
"""

import functools
from typing import Any, ClassVar

from ...adapter import Arrays, Case
from ..base import Adapter, Rows
from ..scripts import script
from ..template import optimizer_of


class EquinoxBert(Adapter):
    """The notebook's `make_step` and `make_eval_step` by `filter_pmap`, on its `BertClassifier`."""

    name, capabilities = "Equinox's BERT example", frozenset({"devices", "jax", "moments", "replicas"})
    columns: ClassVar = {"token_ids": "input_ids", "segment_ids": "token_type_ids", "label": "labels"}
    pmapped = True
    names: ClassVar = {
        "encoder": "bert", "encoder.layers": "bert.encoder.layer", "classifier_head": "classifier",
        "encoder.pooler": "bert.pooler.dense", "embedder_block.token_embedder": "embeddings.word_embeddings",
        "embedder_block.position_embedder": "embeddings.position_embeddings",
        "embedder_block.segment_embedder": "embeddings.token_type_embeddings",
        "embedder_block.layernorm": "embeddings.LayerNorm", "attention_block.layernorm": "attention.output.LayerNorm",
        "attention_block.attention.query_proj": "attention.self.query", "ff_block.mlp": "intermediate.dense",
        "attention_block.attention.key_proj": "attention.self.key", "ff_block.output": "output.dense",
        "attention_block.attention.value_proj": "attention.self.value", "ff_block.layernorm": "output.LayerNorm",
        "attention_block.attention.output_proj": "attention.output.dense",
    }  # fmt: skip

    def build(self, case: Case, devices: Any) -> Any:
        import equinox as eqx  # type: ignore[import-not-found,unused-ignore]
        import jax
        import optax

        def parameters(model: Any) -> Any:
            return eqx.filter(model, eqx.is_inexact_array)

        example = script("bert.ipynb")
        model = example.BertClassifier(case.config, case.num_labels, jax.random.PRNGKey(0))
        own, schedule = optimizer_of(case, self.decays)
        tx = optax.GradientTransformation(
            lambda model: own.init(parameters(model)),
            lambda gradients, state, model: own.update(gradients, state, parameters(model)),
        )
        step = eqx.filter_pmap(functools.partial(example.make_step, tx=tx), axis_name="devices", devices=devices)
        return model, tx, schedule, step, eqx.filter_pmap(example.make_eval_step, devices=devices)

    def begin(self, params: Arrays, seed: int) -> None:
        import jax

        model, tx, self.schedule, self.train, self.evaluation = self.built
        model = jax.tree.map(
            jax.numpy.asarray, self.to_tree(params, model)
        )  # dropout rates and flags too, as if replicated
        self.model, self.state, self.keys = self.replicated((model, tx.init(model), jax.random.PRNGKey(seed)))

    def update(self, rows: Rows) -> tuple[Any, Any]:
        loss, self.model, self.state, self.keys = self.train(self.model, rows, self.state, self.keys)
        return loss.sum(), self.schedule(self.count)

    def logits(self, rows: Rows) -> Any:
        return self.evaluation(self.model, rows)

    def tree(self) -> Any:
        return self.model

    def optimizer(self) -> Any:
        return self.state
