"""The way of a batch to the devices: chunks, skipped micro-batches, one batch ahead, every example evaluated once."""

import itertools
import threading
import time
from typing import Any

import helpers
import jax
import numpy as np
import pytest

from sftref.config import OptimConfig, TrainConfig
from sftref.data.batches import Batch, Layout, pad, padded_layout
from sftref.data.tasks import get_task
from sftref.train.chunks import CPU_TRAIN_TOKENS, chunked
from sftref.train.loop import Run, evaluate
from sftref.train.pipeline import ahead, eval_feed, train_feed
from sftref.train.step import Program
from sftref.trainers import SingleTrainer, Trainer, make_trainer

pytestmark = pytest.mark.jax

LENGTH = helpers.LENGTH


def program(**changes: Any) -> Program:
    model = helpers.model_config(**changes)
    return Program.of(model, OptimConfig(), total_steps=9, dropout="addressed", precision="float32")


@pytest.fixture(scope="module")
def trainer() -> SingleTrainer:
    return SingleTrainer(program(), jax.devices()[:1])


class TestMicroBatches:
    """Which micro-batches are computed MUST NOT change what is computed."""

    def gradient(self, trainer: Trainer, batch: Batch) -> Any:
        state = trainer.program.state(helpers.parameters(trainer.program.model.config), seed=3)
        return trainer.read(trainer.gradient_step(trainer.place(state), trainer.put(batch)))

    @pytest.mark.once
    @pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 3, 1), (0, 1, 2, 3)], ids=["inside", "first", "last"])
    def test_empty_ones_wherever_they_stand(self, trainer: SingleTrainer, order: tuple[int, ...]) -> None:
        """Eight examples in two of four micro-batches; the other two are empty."""
        tokens, index = helpers.ragged(8), np.arange(8)
        want = self.gradient(trainer, pad(tokens, index, Layout(1, 8, LENGTH, 1)))
        spread = pad(tokens, index, Layout(4, 4, LENGTH, 1))
        batch = Batch(*(np.ascontiguousarray(leaf[list(order)]) for leaf in spread))
        assert [bool(w.any()) for w in batch.weights].count(False) == 2
        assert helpers.relative_error(self.gradient(trainer, batch), want) < 1e-6
        # The control: without one of the occupied micro-batches the gradient is another one.
        lost = batch._replace(weights=np.where(np.arange(4)[:, None, None] == order.index(0), 0, batch.weights))
        assert helpers.relative_error(self.gradient(trainer, lost), want) > 0.1

    def test_chunks_hold_the_same_rows(self) -> None:
        assert chunked(Layout(1, 18, 128, 7), 4) == Layout(6, 4, 128, 7)  # 5 are needed, one is spare
        assert chunked(Layout(2, 16, 128, 7), 8) == Layout(5, 8, 128, 7)
        whole = Layout(2, 16, 128, 7)
        assert chunked(whole, 16) is whole


class TestAhead:
    """`ahead` MUST give the same items in the same order, one early, and pass on every error."""

    def test_same_items(self) -> None:
        assert list(ahead(range(5))) == list(range(5))
        assert list(ahead([])) == []

    def test_one_early_in_another_thread(self) -> None:
        made: list[tuple[int, str]] = []

        def source() -> Any:
            for k in range(3):
                made.append((k, threading.current_thread().name))
                yield k

        items = ahead(source())
        assert next(items) == 0
        deadline = time.monotonic() + 10
        while len(made) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert [k for k, _ in made] == [0, 1], "the second item must be made while the first is in use, and no third"
        assert all(name.startswith("sftref-input") for _, name in made)
        assert list(items) == [1, 2]

    def test_an_error_arrives(self) -> None:
        def source() -> Any:
            yield 1
            raise ValueError("the disk is gone")

        items = ahead(source())
        assert next(items) == 1
        with pytest.raises(ValueError, match="the disk is gone"):
            next(items)


class TestFeeds:
    """Every example MUST be seen once an epoch, in batches of one shape."""

    @pytest.mark.parametrize(("name", "devices"), [("single", 1), ("mesh", 3)])
    @pytest.mark.parametrize("pack", [True, False])
    def test_training(self, name: str, devices: int, pack: bool) -> None:
        tokens = helpers.ragged(23)
        trainer = make_trainer(name, program(), jax.devices()[:devices])
        config = TrainConfig(batch_size=8, max_length=LENGTH, pack=pack, accumulate=2)
        feeds = list(train_feed(tokens, config, trainer, start_step=0, total_steps=6))
        for epoch in (feeds[:3], feeds[3:]):
            ids = np.concatenate([np.asarray(f.placed.example_ids)[np.asarray(f.placed.weights) > 0] for f in epoch])
            assert sorted(ids) == sorted(tokens.example_ids)
            assert sum(f.tokens for f in epoch) == len(tokens.input_ids)
        assert len({f.placed.weights.shape for f in feeds}) == 1
        assert feeds[0].placed.weights.shape[0] >= 2, "--accumulate 2 needs two micro-batches"
        later = next(iter(train_feed(tokens, config, trainer, start_step=4, total_steps=6)))
        assert (later.examples == feeds[4].examples).all()

    @pytest.mark.parametrize(
        ("name", "devices", "mesh", "dropout", "chunks"),
        [
            ("single", 1, None, "addressed", True),
            ("single", 1, None, "article", True),
            ("mesh", 2, None, "addressed", True),
            ("pmap", 3, None, "addressed", True),
            # A collective inside the loop over chunks, or masks that have the shape of a chunk.
            ("mesh", 2, {"data": 1, "fsdp": 2}, "addressed", False),
            ("pmap", 3, None, "article", False),
        ],
    )
    def test_each_cpu_device_gets_chunks_that_stay_in_its_cache(
        self, name: str, devices: int, mesh: Any, dropout: Any, chunks: bool
    ) -> None:
        tokens, config = helpers.ragged(200), TrainConfig(batch_size=200, max_length=LENGTH)
        model = helpers.model_config()
        one = Program.of(model, OptimConfig(), total_steps=9, dropout=dropout, precision="float32")
        trainer = make_trainer(name, one, jax.devices()[:devices], mesh)
        feed = next(iter(train_feed(tokens, config, trainer, start_step=0, total_steps=1)))
        *first, k, rows, length = feed.placed.input_ids.shape
        rows = rows if first else rows // devices  # under pmap, leaves are [N, K, R/N, L]
        assert (k > 1) == chunks
        assert not chunks or rows * length <= CPU_TRAIN_TOKENS

    @pytest.mark.parametrize("pack", [True, False])
    def test_evaluation(self, pack: bool) -> None:
        tokens = helpers.ragged(37)
        trainer = make_trainer("mesh", program(), jax.devices()[:2])
        config = TrainConfig(eval_batch_size=8, max_length=LENGTH, pack=pack)
        feeds = list(eval_feed(tokens, config, trainer))
        assert sorted(itertools.chain.from_iterable(f.examples.tolist() for f in feeds)) == list(range(37))
        assert len({f.placed.weights.shape for f in feeds}) == 1
        for feed in feeds:
            at = np.asarray(feed.placed.example_ids)[0][feed.row, feed.slot]
            assert (at == tokens.example_ids[feed.examples]).all()


@pytest.mark.once
@pytest.mark.parametrize("name", ["single", "pmap"])
def test_evaluation_of_a_regression(name: str) -> None:
    """Loss, Pearson and Spearman equal those of the predictions, in the data's order."""
    tokens = helpers.ragged(37, regression=True)
    task = get_task("stsb")
    trainer = make_trainer(name, program(num_labels=1, regression=True), jax.devices()[: 1 if name == "single" else 3])
    config = TrainConfig(eval_batch_size=8, max_length=LENGTH)
    model = trainer.program.model.config
    state = trainer.program.state(helpers.parameters(model), seed=0)
    run = Run(config, task, None, None, tokens, {"validation": tokens}, trainer.program, trainer, 1, 1)
    result = evaluate(run, trainer.place(state), "validation")
    padded = pad(tokens, np.arange(37), padded_layout(37, LENGTH, 1))
    single = SingleTrainer(trainer.program, jax.devices()[:1])
    logits = single.read_logits(single.eval_step(single.place(state), single.put(padded))[1])[:37, 0, 0]
    assert np.allclose(result.logits[:, 0], logits, rtol=1e-5, atol=1e-6)
    x, y = result.logits[:, 0], np.asarray(tokens.labels, np.float64)
    assert result.loss == pytest.approx(np.mean((x - y) ** 2), rel=1e-5)
    assert result.metrics["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-5)
    ranks = [np.argsort(np.argsort(v)) for v in (x, y)]
    ties = len(np.unique(x)) < 37 or len(np.unique(y)) < 37
    assert ties or result.metrics["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert set(result.metrics) == {"pearson", "spearmanr"}
