"""Equinox's BERT example, `docs/examples/bert.ipynb`, behind the adapter interface: its own steps.

The notebook is in no package: run in its folder, or add the folder to PYTHONPATH. Its step takes the optimizer as an
argument, which is AdamW with the case's constants here. The adapter hides the dropout layers' flags from the optimizer,
since the notebook's own `optax.adam` refuses them in optax 0.2.8. The loss is what its progress bar shows.

    sftref verify --adapter sftref.conformance.adapters.examples.equinox_bert:EquinoxBert
"""

import functools
from typing import Any, ClassVar

import jax

from ...adapter import Case
from ..loop import Functions, Loop
from ..scripts import script


class EquinoxBert(Loop):
    """The notebook's `make_step` and `make_eval_step` by `filter_pmap`, on its `BertClassifier`."""

    name, capabilities = "Equinox's BERT example", frozenset({"devices", "jax", "moments", "replicas"})
    columns: ClassVar = {"token_ids": "input_ids", "segment_ids": "token_type_ids", "label": "labels"}
    pmapped = True
    takes: ClassVar = ("model", "rows", "optimizer", "key")
    gives: ClassVar = ("losses", "model", "optimizer", "key")
    evaluates: ClassVar = ("model", "rows")
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

    def build(self, case: Case, devices: Any) -> Functions:
        import equinox as eqx  # type: ignore[import-not-found,unused-ignore]

        example, tx = script("bert.ipynb"), self.adamw(case)
        model = example.BertClassifier(case.config, case.num_labels, jax.random.PRNGKey(0))
        step = functools.partial(example.make_step, tx=tx)
        train = eqx.filter_pmap(step, axis_name="devices", devices=devices)
        return Functions({"model": model}, train, eqx.filter_pmap(example.make_eval_step, devices=devices), tx)
