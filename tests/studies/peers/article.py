"""The loops of the article that this project starts from, with the article's own model and data path.

"LLM distributed supervised fine-tuning with JAX" (Douglas Jia, ROCm blogs, 25 January 2024): the loops are those of
`conformance/adapters/examples/article_loop.py`. This file adds `FlaxBert` from transformers, batches taken from a
`datasets.Dataset` as Python lists, padding to 128 tokens, metrics added up on the host, and dropped incomplete batches.
It is a peer for comparison: everything that affects time or results is as in the article.

Needs transformers 4.57.6, the last version with Flax models: run it with `tox -e peers`.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import optax
from sftref.conformance.adapters.examples.article_loop import Loop, decays

COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "labels")


def flax_bert(folder: Path, num_labels: int = 2) -> Any:
    """The checkpoint in `folder` as the article loads it."""
    from transformers import AutoConfig, FlaxAutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, num_labels=num_labels)
    return FlaxAutoModelForSequenceClassification.from_pretrained(folder, config=config, seed=0)


class ArticleTrainer:
    """The article's `pmap` or `mesh` trainer.

    Args:
        model: the model that `flax_bert` returned.
        kind: "pmap" or "mesh".
        devices: N devices; batches must be divisible by N.
        total_steps: the updates over which the learning rate falls from 2e-5 to 0.
    """

    def __init__(self, model: Any, kind: str, devices: list[jax.Device], total_steps: int, seed: int = 0) -> None:
        schedule = optax.linear_schedule(init_value=2e-5, end_value=0, transition_steps=total_steps)
        optimizer = optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, mask=decays)
        self.kind, self.loop = kind, Loop(model, kind, devices, optimizer, schedule)
        self.state, self.keys = self.loop.start(model.params, seed)

    def train(self, batch: dict[str, list[Any]]) -> Any:
        """Make one update; its metrics stay on the device."""
        self.state, metrics, self.keys = self.loop.train(self.state, self.loop.place(batch), self.keys)
        return metrics

    def evaluate(self, batches: Iterator[dict[str, list[Any]]]) -> dict[str, float]:
        """Accuracy and F1. Predictions are gathered element by element, as by the article's metric object."""
        predictions: list[int] = []
        references: list[int] = []
        for batch in batches:
            placed = self.loop.place(batch)
            labels = placed.pop("labels")
            found = self.loop.predict(self.state, placed)
            if self.kind == "pmap":
                predictions.extend(map(int, chain(*found)))
                references.extend(map(int, chain(*labels)))
            else:
                predictions.extend(map(int, found))
                references.extend(map(int, labels))
        from sklearn.metrics import accuracy_score, f1_score

        return {"accuracy": accuracy_score(references, predictions), "f1": f1_score(references, predictions)}


def eval_batches(dataset: Any, batch_size: int) -> Iterator[dict[str, list[Any]]]:
    """The data in order; the incomplete batch is dropped."""
    for i in range(len(dataset) // batch_size):
        yield dataset[i * batch_size : (i + 1) * batch_size]
