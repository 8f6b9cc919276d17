"""The JAX peers, each run one call at a time: our trainers, a bare `jit` of our step, the article's loops, a matmul."""

import functools
from typing import Any

import article
import jax
import jax.numpy as jnp
import numpy as np
from workload import BATCH, LENGTH, SMALL, Work

from sftref.config import OptimConfig, TrainConfig
from sftref.data.batches import pad, padded_layout
from sftref.data.tasks import get_task
from sftref.data.tokens import TokenArrays
from sftref.model.pretrained import load_pretrained
from sftref.model.weights import model_folder
from sftref.train.loop import Run, evaluate
from sftref.train.pipeline import train_feed
from sftref.train.step import Program, eval_step, train_step
from sftref.trainers import SingleTrainer, make_trainer
from sftref.trainers.single import identity

# So wide that the product takes most of the time, not the copies around it; one product takes 0.1 s on two cores.
PEAK_WIDTH = 2048


class Peak:
    """A square product of float32 matrices alone: the fastest that this machine multiplies in JAX."""

    flops = 2.0 * PEAK_WIDTH**3

    def __init__(self) -> None:
        self._factors = [jax.random.normal(jax.random.key(k), (PEAK_WIDTH, PEAK_WIDTH)) for k in range(2)]
        self._product = jax.jit(lambda a, b: jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST))

    def __call__(self) -> None:
        """Compute one product."""
        jax.block_until_ready(self._product(*self._factors))


class BareJit(SingleTrainer):
    """Our step under `jax.jit`, and nothing else of a trainer: no placement of results, no reduction."""

    name = "bare jit"

    def __init__(self, program: Program) -> None:
        super().__init__(program, jax.devices()[:1])
        self._train = jax.jit(functools.partial(train_step, program, reduce=identity), donate_argnums=0)
        self._eval = jax.jit(functools.partial(eval_step, program, reduce=identity))


class Ours:
    """One of our trainers with packing, placement, step, and an evaluation as after an epoch."""

    def __init__(self, work: Work, name: str, *, pack: bool = True) -> None:
        self.work = work
        self.config = TrainConfig(batch_size=BATCH, max_length=LENGTH, pack=pack, eval_batch_size=256)
        program = Program.of(work.config, OptimConfig(), total_steps=1000, dropout="addressed", precision="float32")
        self.trainer = BareJit(program) if name == "bare jit" else make_trainer(name, program, jax.devices()[:1])
        self.state = self.trainer.place(program.state(_params(work, program), seed=0))
        self.feeds = train_feed(work.tokens, self.config, self.trainer, start_step=0, total_steps=1000)

    def train(self) -> None:
        """Make one update."""
        self.state, metrics = self.trainer.train_step(self.state, self.feed().placed)
        jax.block_until_ready((self.state, metrics))

    def feed(self) -> Any:
        """The next batch, on the device: the work of the input pipeline for one update."""
        return next(self.feeds)

    def evaluate(self) -> None:
        """Evaluate all examples once."""
        task, tokens, trainer = get_task("qqp"), self.work.held_out, self.trainer
        run = Run(self.config, task, None, None, tokens, {"validation": tokens}, trainer.program, trainer, 1, 1)
        evaluate(run, self.state, "validation")


def _params(work: Work, program: Program) -> Any:
    if work.model == "minilm":
        return load_pretrained("demo", num_labels=2).params
    batch = jax.tree.map(lambda a: a[0], pad(work.tokens, np.arange(4), padded_layout(4, LENGTH, 1)))
    shapes = jax.eval_shape(program.model.init, jax.random.key(0), batch)["params"]
    normal = np.random.default_rng(0).standard_normal

    def leaf(path: Any, shape: Any) -> np.ndarray:
        if len(shape.shape) > 1:
            return 0.02 * normal(shape.shape, np.float32)
        return np.full(shape.shape, path[-1].key == "scale", np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


class Article:
    """The article's loop on `FlaxBert`, under `pmap` or `jit` with a mesh."""

    def __init__(self, work: Work, kind: str) -> None:
        self.trainer = article.ArticleTrainer(_flax_bert(work.model), kind, jax.devices()[:1], 1000)
        self.dataset, self.held_out = as_dataset(work.tokens), as_dataset(work.held_out)
        self.batches = iter(work.order())

    def train(self) -> None:
        """Make one update."""
        jax.block_until_ready(self.trainer.train(self.dataset[next(self.batches)]))
        jax.block_until_ready(self.trainer.state)

    def evaluate(self) -> None:
        """Evaluate once, without the incomplete batch."""
        self.trainer.evaluate(article.eval_batches(self.held_out, BATCH))


@functools.cache
def _flax_bert(model: str) -> Any:
    if model == "minilm":
        return article.flax_bert(model_folder("demo"))
    from transformers import BertConfig, FlaxBertForSequenceClassification

    return FlaxBertForSequenceClassification(BertConfig(**SMALL, num_labels=2), seed=0)


def as_dataset(tokens: TokenArrays) -> Any:
    """The examples in the article's form: padded lists in a `datasets.Dataset`."""
    import datasets

    n = len(tokens)
    ids = np.zeros((n, LENGTH), np.int64)
    mask = np.arange(LENGTH) < tokens.lengths[:, None]
    ids[mask] = tokens.input_ids
    columns = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": mask.astype(np.int64)}
    lists = {name: values.tolist() for name, values in columns.items()}
    return datasets.Dataset.from_dict(lists | {"labels": tokens.labels.tolist()})
