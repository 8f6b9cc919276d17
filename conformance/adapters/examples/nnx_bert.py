"""A BERT in Flax NNX behind the adapter interface: the training and evaluation step of github.com/walln/scratch.

The repository is in no package index: add its folder `src` to PYTHONPATH. Its lock file has Python 3.12, JAX 0.6.1 and
Flax 0.10.6. Adam's constants are written into it, and it has no weight decay and no clipping. The rate 0.1 of its first
dropout layer is written into it too: training and evaluation are random.

    sftref verify --adapter sftref.conformance.adapters.examples.nnx_bert:NnxBert
"""

import importlib
from typing import Any, ClassVar

from ...adapter import Case
from ..base import Rows
from ..loop import Functions, NnxLoop
from ..scripts import inner
from ..template import optimizer_of


class NnxBert(NnxLoop):
    """The `train_step` and `eval_step` of its `SequenceClassificationTrainer`, over a mesh."""

    name, capabilities = "NNX BERT of walln/scratch", frozenset({"devices", "jax", "moments", "replicas"})
    fixed: ClassVar = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": None, "regression": False}
    columns: ClassVar = {"input_ids": "input_ids", "labels": "labels"}
    names: ClassVar = {
        "bert.embeddings.token_embeddings": "bert.embeddings.word_embeddings", "bert.pooler": "bert.pooler.dense",
        "bert.embeddings.segment_embeddings": "bert.embeddings.token_type_embeddings",
        "bert.embeddings.layer_norm": "bert.embeddings.LayerNorm", "bert.encoder.layers": "bert.encoder.layer",
        "attention.query": "attention.self.query", "attention.key": "attention.self.key",
        "attention.value": "attention.self.value", "attention.out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm", "intermediate_dense": "intermediate.dense",
        "output_dense": "output.dense", "output_norm": "output.LayerNorm",
    }  # fmt: skip

    def build(self, case: Case, devices: Any) -> Functions:
        import jax
        from flax import nnx
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        bert = importlib.import_module("scratch.language_modeling.bert.sequence_classification")
        trainers = importlib.import_module("scratch.language_modeling.trainers.sequence_classification")
        kind, schedule, config = trainers.SequenceClassificationTrainer, optimizer_of(case, None)[1], bert.BertConfig()
        evaluate = inner(kind.eval, "eval_step")

        def logits(model: Any, batch: Rows) -> Any:
            """The logits that its `eval_step` gives to the metrics."""
            kept: dict[str, Any] = {}
            metrics = type("Metrics", (), {"update_metrics": staticmethod(lambda **values: kept.update(values))})
            evaluate(model, metrics, batch | {"labels": batch["input_ids"]})
            return kept["logits"]

        def batch(rows: Rows) -> Any:
            """Rows as its loop makes them: a mask of the ids, no token types, labels as one-hot vectors."""
            labels = {"labels": jax.nn.one_hot(rows["labels"], case.num_labels)} if "labels" in rows else {}
            mask = trainer._create_attention_mask(rows["input_ids"])
            return jax.device_put({**rows, "attention_mask": mask, **labels}, place)

        vars(config).update(case.config)
        # Without its `__init__`, which opens a folder for checkpoints.
        trainer = object.__new__(kind)
        trainer.model = bert.BertForSequenceClassification(config, case.num_labels, rngs=nnx.Rngs(0))
        trainer.trainer_config = type("Config", (), {"learning_rate": schedule})
        state, place = trainer._create_train_state(), NamedSharding(Mesh(devices, ("device",)), PartitionSpec("device"))
        kept = {"model": trainer.model, "optimizer": state, "first": nnx.state(state)}
        return Functions(kept, nnx.jit(inner(kind.train, "train_step")), nnx.jit(logits), None, schedule, batch)
