"""A BERT in Flax NNX behind the adapter interface: the training and evaluation step of github.com/walln/scratch.

The repository is in no package index: add its folder `src` to PYTHONPATH. Its lock file has Python 3.12, JAX 0.6.1 and
Flax 0.10.6. Adam's constants are written into it, and it has no weight decay and no clipping. The rate 0.1 of its first
dropout layer is written into it too: training and evaluation are random.

    sftref verify --adapter sftref.conformance.adapters.examples.nnx_bert:NnxBert
"""

import importlib
from typing import Any, ClassVar

from ...adapter import Arrays, Case
from ..base import Adapter, Rows
from ..scripts import inner
from ..template import optimizer_of


class NnxBert(Adapter):
    """The `train_step` and `eval_step` of its `SequenceClassificationTrainer`, over a mesh."""

    name, capabilities = "NNX BERT of walln/scratch", frozenset({"devices", "jax", "moments", "replicas"})
    fixed: ClassVar = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": None, "regression": False}
    names: ClassVar = {
        "bert.embeddings.token_embeddings": "bert.embeddings.word_embeddings", "bert.pooler": "bert.pooler.dense",
        "bert.embeddings.segment_embeddings": "bert.embeddings.token_type_embeddings",
        "bert.embeddings.layer_norm": "bert.embeddings.LayerNorm", "bert.encoder.layers": "bert.encoder.layer",
        "attention.query": "attention.self.query", "attention.key": "attention.self.key",
        "attention.value": "attention.self.value", "attention.out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm", "intermediate_dense": "intermediate.dense",
        "output_dense": "output.dense", "output_norm": "output.LayerNorm",
    }  # fmt: skip

    def build(self, case: Case, devices: Any) -> Any:
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

        vars(config).update(case.config)
        # Without its `__init__`, which opens a folder for checkpoints.
        trainer = object.__new__(kind)
        trainer.model = bert.BertForSequenceClassification(config, case.num_labels, rngs=nnx.Rngs(0))
        trainer.trainer_config = type("Config", (), {"learning_rate": schedule})
        state, place = trainer._create_train_state(), NamedSharding(Mesh(devices, ("device",)), PartitionSpec("device"))
        trainer.train_state = state
        return trainer, nnx.state(state), schedule, nnx.jit(inner(kind.train, "train_step")), nnx.jit(logits), place

    def begin(self, params: Arrays, seed: int) -> None:
        from flax import nnx

        self.trainer, first, self.schedule, self.train, self.evaluation, self.place = self.built
        self.model, self.state = self.trainer.model, self.trainer.train_state
        nnx.update(self.state, first)
        nnx.update(self.model, self.to_tree(params, self.tree()))

    def update(self, rows: Rows) -> tuple[Any, Any]:
        return self.train(self.model, self.state, self._batch(rows)), self.schedule(self.count)

    def logits(self, rows: Rows) -> Any:
        return self.evaluation(self.model, self._batch(rows))

    def _batch(self, rows: Rows) -> Any:
        """Rows as its loop makes them: a mask of the ids, no token types, labels as one-hot vectors."""
        import jax

        batch = {
            "input_ids": rows["input_ids"],
            "attention_mask": self.trainer._create_attention_mask(rows["input_ids"]),
        }
        if "labels" in rows:
            batch["labels"] = jax.nn.one_hot(rows["labels"], self.case.num_labels)
        return jax.device_put(batch, self.place)

    def tree(self) -> Any:
        from flax import nnx

        return nnx.state(self.model, nnx.Param)

    def optimizer(self) -> Any:
        return self.state.opt_state
