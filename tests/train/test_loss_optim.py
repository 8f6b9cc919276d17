"""Loss and counts against NumPy float64; the schedule, the decay mask, AdamW and clipping against their formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from helpers import model_config, parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from sftref.config import ConfigError, OptimConfig
from sftref.train.loss import eval_sums, loss_sums
from sftref.train.optim import decay_mask, linear_schedule, make_optimizer

pytestmark = pytest.mark.jax

ROWS, SLOTS, CLASSES = 3, 4, 3
UNIT = 2.0**-24  # round-off of float32

evaluate = jax.jit(eval_sums, static_argnames="regression")
value_and_grad = jax.jit(
    jax.value_and_grad(lambda *args, regression: loss_sums(*args, regression=regression).loss),
    static_argnames="regression",
)


def reference_losses(logits: np.ndarray, labels: np.ndarray, *, regression: bool) -> np.ndarray:
    """float64, [...]."""
    logits = logits.astype(np.float64)
    if regression:
        return (logits[..., 0] - labels.astype(np.float64)) ** 2
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    return total - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def draw(seed: int, scale: float, *, regression: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and weights, some of them 0 and one of them 0.5."""
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(ROWS, SLOTS, 1 if regression else CLASSES))).astype(np.float32)
    labels = rng.uniform(0, 5, (ROWS, SLOTS)).astype(np.float32)
    weights = (rng.random((ROWS, SLOTS)) < 0.6).astype(np.float32)
    weights[0, 0], weights[0, 1] = 0.5, 0.0
    return logits, labels if regression else rng.integers(0, CLASSES, (ROWS, SLOTS)).astype(np.int32), weights


@pytest.mark.parametrize("regression", [False, True], ids=["classes", "regression"])
class TestSums:
    """Sums and counts MUST be those of float64 to rounding, and MUST NOT see what has weight 0."""

    @settings(deadline=None)
    @given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    def test_against_numpy(self, regression: bool, seed: int, scale: float) -> None:
        logits, labels, weights = draw(seed, scale, regression=regression)
        sums = evaluate(logits, labels, weights, regression=regression)
        losses = reference_losses(logits, labels, regression=regression)
        # A subtraction, exp, log and sum of up to 12 terms, each term of the size of the logits.
        size = (weights * (np.abs(logits).max(-1) + np.abs(labels)) ** (1 + regression)).sum() + ROWS * SLOTS
        assert abs(float(sums.loss) - (weights * losses).sum()) <= 16 * UNIT * size
        assert float(sums.weight) == weights.sum()
        real = weights > 0
        if regression:
            assert sums.counts is None
        else:
            want = np.zeros((CLASSES, CLASSES), np.int64)
            np.add.at(want, (labels[real], logits.argmax(-1)[real]), 1)
            assert sums.counts.dtype == jnp.int32
            np.testing.assert_array_equal(sums.counts, want)

    @settings(deadline=None)
    @given(seed=st.integers(0, 2**32), data=st.data())
    def test_what_has_weight_0_may_be_anything(self, regression: bool, seed: int, data: Any) -> None:
        logits, labels, weights = draw(seed, 1.0, regression=regression)
        padding = weights == 0
        value, gradient = value_and_grad(logits, labels, weights, regression=regression)
        clean = evaluate(logits, labels, weights, regression=regression)
        anything = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -1e30, 0.0])
        logits[padding] = data.draw(anything)
        labels[padding] = data.draw(anything if regression else st.sampled_from([10**9, -1, -(2**31), CLASSES]))
        dirty_value, dirty_gradient = value_and_grad(logits, labels, weights, regression=regression)
        dirty = evaluate(logits, labels, weights, regression=regression)
        assert float(value) == float(dirty_value)
        np.testing.assert_array_equal(gradient, dirty_gradient)
        assert not np.asarray(dirty_gradient)[padding].any()
        for one, other in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_gradient_against_the_formula(self, regression: bool) -> None:
        logits, labels, weights = draw(5, 2.0, regression=regression)
        _, gradient = value_and_grad(logits, labels, weights, regression=regression)
        if regression:
            want = 2 * (logits.astype(np.float64) - labels[..., None])
        else:
            p = np.exp(logits.astype(np.float64))
            want = p / p.sum(-1, keepdims=True) - np.eye(CLASSES)[labels]
        np.testing.assert_allclose(gradient, weights[..., None] * want, rtol=0, atol=32 * UNIT)

    def test_an_empty_shard_adds_nothing(self, regression: bool) -> None:
        logits, labels, weights = draw(5, 1.0, regression=regression)
        sums = evaluate(logits * np.nan, labels, weights * 0, regression=regression)
        assert all(not np.asarray(s).any() for s in jax.tree.leaves(sums))


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4, 0], [-3e38, 0, 3e38], [80, 80, 80]], np.float32)
    ones = np.ones(3, np.float32)
    for label in range(3):
        labels = np.full(3, label, np.int32)
        value, gradient = value_and_grad(logits[:1], labels[:1], ones[:1], regression=False)
        assert float(value) == pytest.approx([0, 2e4, 1e4][label], rel=1e-6)
        assert np.isfinite(gradient).all()
        assert float(evaluate(logits[2:], labels[2:], ones[2:], regression=False).loss) == pytest.approx(np.log(3))
        assert np.isfinite(value_and_grad(logits[1:2], labels[1:2], ones[1:2], regression=False)[1]).all()


def hf_linear_schedule(step: int, warmup: int, total: int) -> float:
    """The factor of `transformers.get_linear_schedule_with_warmup`, in its own words."""
    if step < warmup:
        return float(step) / float(max(1, warmup))
    return max(0.0, float(total - step) / float(max(1, total - warmup)))


class TestSchedule:
    """The learning rate of update t = 0, 1, ... MUST be that of `get_linear_schedule_with_warmup`."""

    @pytest.mark.parametrize(
        ("total", "warmup"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (10, 4), (1000, 1), (1000, 999)]
    )
    def test_at_its_corners(self, total: int, warmup: int) -> None:
        schedule = linear_schedule(OptimConfig(learning_rate=2e-5, warmup_steps=warmup), total)
        for step in {0, 1, warmup - 1, warmup, warmup + 1, total - 1, total, total + 5} - {-1}:
            want = 2e-5 * hf_linear_schedule(step, warmup, total)
            # Steps and their quotients are exact or rounded once; then 1 - quotient, a product and a sum.
            assert float(schedule(jnp.int32(step))) == pytest.approx(want, rel=0, abs=4 * UNIT * 2e-5), (total, step)

    @pytest.mark.parametrize(("total", "warmup"), [(1, 1), (3, 3), (3, 4)])
    def test_a_warm_up_that_leaves_no_step_is_refused(self, total: int, warmup: int) -> None:
        with pytest.raises(ConfigError, match=f"--warmup-steps = {warmup}, must be less than the {total} steps"):
            linear_schedule(OptimConfig(warmup_steps=warmup), total)


def test_decay_mask_is_exactly_the_kernels_and_embeddings() -> None:
    flat = traverse_util.flatten_dict(decay_mask(parameters(model_config(num_hidden_layers=1))), sep="/")
    dense = ["attention/query", "attention/key", "attention/value", "attention/output", "intermediate", "output"]
    decayed = {f"layer_0/{name}/kernel" for name in dense} | {"pooler/kernel", "classifier/kernel"}
    decayed |= {f"embeddings/{name}_embeddings/embedding" for name in ("word", "token_type", "position")}
    assert {name for name, decays in flat.items() if decays} == decayed
    others = {name.replace("/kernel", "/bias") for name in decayed if name.endswith("kernel")}
    norms = ("embeddings/LayerNorm", "layer_0/attention/LayerNorm", "layer_0/LayerNorm")
    assert set(flat) - decayed == others | {f"{n}/{leaf}" for n in norms for leaf in ("scale", "bias")}


def adamw_by_hand(config: OptimConfig, total: int, params: dict[str, np.ndarray], gradients: list[Any]) -> Any:
    """Loshchilov and Hutter (2019), algorithm 2, with the schedule on both terms, as optax and PyTorch have it."""
    params = {k: v.astype(np.float64) for k, v in params.items()}
    m = {k: np.zeros_like(v) for k, v in params.items()}
    v = {k: np.zeros_like(x) for k, x in params.items()}
    for t, g in enumerate(gradients, start=1):
        size = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in g.values()))
        factor = 1.0 if config.clip_norm is None else min(1.0, config.clip_norm / size)
        rate = config.learning_rate * hf_linear_schedule(t - 1, config.warmup_steps, total)
        for k in params:
            gk = factor * g[k].astype(np.float64)
            m[k] = config.b1 * m[k] + (1 - config.b1) * gk
            v[k] = config.b2 * v[k] + (1 - config.b2) * gk**2
            step = m[k] / (1 - config.b1**t) / (np.sqrt(v[k] / (1 - config.b2**t)) + config.eps)
            decay = config.weight_decay * params[k] if k == "kernel" else 0.0
            params[k] = params[k] - rate * (step + decay)
    return params


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6], ids=["unclipped", "clipped", "clip that does not bind"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_adamw_against_numpy(clip_norm: float | None, warmup: int) -> None:
    """Three updates; decoupled decay on kernels only, bias correction, eps outside the root, clipping in front."""
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=warmup, clip_norm=clip_norm, eps=1e-3)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,), "scale": (4,)}
    params = {k: (3 + rng.normal(size=s)).astype(np.float32) for k, s in shapes.items()}
    # Gradients down to the size of eps, so that its place shows.
    gradients = [
        {k: (10.0 ** rng.uniform(-5, 0, s) * rng.choice([-1, 1], s)).astype(np.float32) for k, s in shapes.items()}
        for _ in range(3)
    ]
    optimizer = make_optimizer(config, 4)
    state, got = optimizer.init(params), params
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, got)
        got = optax.apply_updates(got, updates)
    want = adamw_by_hand(config, 4, params, gradients)
    for name in shapes:
        # Three updates of at most 0.1, each after some 20 roundings (b2's power costs 1e-4 of relative error more,
        # for 1 - 0.999 keeps 14 of float32's 24 bits), on parameters of up to 6.
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=3 * (0.1 * 1e-4 + 6 * UNIT))
