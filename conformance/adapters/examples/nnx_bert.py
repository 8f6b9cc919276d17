"""A BERT in Flax NNX behind the adapter interface: the training and evaluation step of github.com/walln/scratch.

The repository is in no package index: add its folder `src` to PYTHONPATH. Its lock file has Python 3.12, JAX 0.6.1 and
Flax 0.10.6. Adam's constants are written into it, and it has no weight decay and no clipping. The rate 0.1 of its first
dropout layer is written into it too: training and evaluation are random.

    sftref verify --adapter sftref.conformance.adapters.examples.nnx_bert:NnxBert
"""

from types import SimpleNamespace
from typing import Any, ClassVar

from flax import nnx
from scratch.language_modeling.bert import (  # type: ignore[import-not-found,unused-ignore]
    sequence_classification as bert,
)
from scratch.language_modeling.trainers import (  # type: ignore[import-not-found,unused-ignore]
    sequence_classification as trainers,
)

from ...adapter import Case
from ..base import Rows
from ..loop import Functions, NnxLoop, rate_of, recorded
from ..scripts import inner, without_init


class NnxBert(NnxLoop):
    """The `train_step` and `eval_step` of its `SequenceClassificationTrainer`, over a mesh."""

    name, capabilities = "NNX BERT of walln/scratch", frozenset({"devices", "jax", "moments", "replicas"})
    fixed: ClassVar = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": None, "regression": False}
    columns: ClassVar = {"input_ids": "input_ids", "labels": "one_hot"}
    scores = True
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
        config, settings = without_init(bert.BertConfig, **case.config), SimpleNamespace(learning_rate=rate_of(case))
        model = bert.BertForSequenceClassification(config, case.num_labels, rngs=nnx.Rngs(0))
        # Its `__init__` opens a folder for checkpoints.
        trainer = without_init(trainers.SequenceClassificationTrainer, model=model, trainer_config=settings)
        kept, kind = {"model": model, "optimizer": trainer._create_train_state()}, type(trainer)
        train, evaluate = inner(kind.train, "train_step"), recorded(inner(kind.eval, "eval_step"))

        def batch(rows: Rows) -> Rows:
            return rows | {"attention_mask": trainer._create_attention_mask(rows["input_ids"])}

        return Functions(kept, nnx.jit(train), nnx.jit(evaluate), batch=batch)
