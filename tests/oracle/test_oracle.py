"""The oracle agrees with known answers, central differences, JAX's gradients in float64, and optax."""

import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import helpers
import jax
import numpy as np
import optax
import pytest
from kit import DROPPED, PLAIN, REGRESSION, L, batch_of, device_batch, params_of, relative
from sftref.conformance.adapter import StepResult
from sftref.conformance.adapters.sftref import model_config
from sftref.conformance.laws.trainer.test_6_step import with_unlikely_labels
from sftref.conformance.oracle.bounds_measured import gradient_reference, loss_reference, walk
from sftref.conformance.oracle.masks import ATTENTION, CLASSIFIER, FEED_FORWARD, Masks, threefry_2x32
from sftref.conformance.oracle.model import evaluate, mean_loss, value_and_gradient
from sftref.conformance.oracle.updates import OracleTrainer, decays, learning_rate

from sftref.config import OptimConfig
from sftref.model.dropout import Address, AddressedDropout
from sftref.model.names import from_hf, to_hf
from sftref.train.optim import decay_mask, linear_schedule
from sftref.train.step import Program, mean_gradients
from sftref.trainers import SingleTrainer
from sftref.trainers.single import identity

pytestmark = pytest.mark.jax

CASES = {"plain": PLAIN, "dropout": DROPPED, "regression": REGRESSION}


class TestMasks:
    """Threefry and the masks MUST be those of Salmon et al. and of `sftref/model/dropout.py`."""

    @pytest.mark.parametrize(
        ("key", "counter", "want"),
        [  # the known answers of Random123 for threefry2x32 with 20 rounds
            ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
            ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
            ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
        ],
    )
    def test_known_answers(self, key: Any, counter: Any, want: Any) -> None:
        words = threefry_2x32(*(tuple(np.array(v, np.uint32) for v in pair) for pair in (key, counter)))
        assert tuple(int(w) for w in words) == want

    def test_equal_to_the_masks_on_the_device(self) -> None:
        ids = np.array([0, 7, 2**32 - 1], np.uint32)
        seed, step, rate = 2**40 + 7, 11, 0.3
        words = (jax.numpy.uint32(seed >> 32), jax.numpy.uint32(seed & 0xFFFFFFFF))
        device, mine = AddressedDropout(words, jax.numpy.int32(step)), Masks(seed, step)
        position = np.broadcast_to(np.arange(L, dtype=np.uint32), (3, L))
        at = Address(jax.numpy.broadcast_to(ids[:, None], (3, L)), jax.numpy.asarray(position))
        for site in (FEED_FORWARD, CLASSIFIER, 8 + FEED_FORWARD):
            got = device.hidden(jax.numpy.ones((3, L, 10)), rate, site, at)
            want = mine.hidden(rate, site, ids, L, 10)
            assert ((np.asarray(got) > 0) == (want > 0)).all()
            assert np.allclose(got, want, rtol=1e-6)
        got = device.attention(jax.numpy.ones((3, 6, L, L)), rate, ATTENTION, at, at)
        want = mine.attention(rate, ATTENTION, ids, L, 6)
        assert ((np.asarray(got) > 0) == (want > 0)).all()


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope_along_every_parameter(name: str) -> None:
    """Central differences in a random direction, for each leaf on its own: error O(h^2), so two steps must agree."""
    case = CASES[name]
    params, batch = params_of(case), batch_of(case)
    gradients = value_and_gradient(case, params, batch, step=3).gradients
    whole = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    rng = np.random.default_rng(5)
    for leaf, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)

        def slope(h: float, leaf: str = leaf, direction: np.ndarray = direction) -> float:
            ends = [value_and_gradient(case, params | {leaf: params[leaf] + s * h * direction}, batch, step=3).loss
                    for s in (1, -1)]  # fmt: skip
            return (ends[0] - ends[1]) / (2 * h)

        # Richardson: (4 slope(h/2) - slope(h)) / 3 has an error of h^4 f''''' / 480 and of 2 eps / h from rounding,
        # 1e-12 each at h = 1e-3 for derivatives of order 1.
        richardson = (4 * slope(0.5e-3) - slope(1e-3)) / 3
        assert abs(richardson - (gradient * direction).sum()) < 1e-9 * max(1.0, whole), leaf


@pytest.mark.once  # on 3.12 the laws compare the oracle with JAX
@pytest.mark.parametrize("name", CASES)
def test_equal_to_jax_in_float64(name: str) -> None:
    case = CASES[name]
    params, batch = params_of(case), batch_of(case)
    model = model_config(case)
    with helpers.precision_scope("float64"):
        program = Program.of(model, OptimConfig(), total_steps=9, dropout="addressed", precision="float64")
        state = program.state(from_hf(params, model), case.seed, step=3)
        one = jax.jit(lambda state, batch: mean_gradients(program, state, batch, identity))  # one program, not three
        sums, tree = jax.device_get(one(state, device_batch(batch)))
        gradients, loss = to_hf(tree), float(sums.loss / sums.weight)
    want = value_and_gradient(case, params, batch, step=3)
    assert loss == pytest.approx(want.loss, rel=1e-13)
    assert relative(gradients, want.gradients) < 1e-13
    if case.dropout:  # the control: another step has other masks
        assert relative(value_and_gradient(case, params, batch, step=4).gradients, want.gradients) > 0.1


def test_logits_without_dropout() -> None:
    """The case has dropout; evaluation must not."""
    params, batch, model = params_of(DROPPED), batch_of(DROPPED), model_config(DROPPED)
    program = Program.of(model, OptimConfig(), total_steps=9, dropout="addressed", precision="float32")
    trainer = SingleTrainer(program, jax.devices()[:1])
    state = trainer.place(program.state(from_hf({k: v.astype(np.float32) for k, v in params.items()}, model), 0))
    logits = trainer.read_logits(trainer.eval_step(state, trainer.put(device_batch(batch)))[1])[:, 0]
    assert np.allclose(logits[:-1], evaluate(DROPPED, params, batch)[:-1], rtol=1e-4, atol=1e-5)


def test_key_biases_have_no_gradient() -> None:
    """A softmax ignores what is added to all its scores, so their gradient is zero except for rounding."""
    gradients = value_and_gradient(PLAIN, params_of(PLAIN), batch_of(PLAIN)).gradients
    keys = [g for name, g in gradients.items() if name.endswith("key.bias")]
    assert len(keys) == 2
    assert all(np.abs(g).max() < 1e-14 for g in keys)
    assert all(np.linalg.norm(g) > 1e-6 for name, g in gradients.items() if not name.endswith("key.bias"))


class TestUpdates:
    """Schedule, decay and AdamW MUST be those of optax, and of `sftref/train/optim.py`."""

    @pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 3), (1, 2), (1, 3), (4, 9)])
    def test_schedule(self, warmup: int, total: int) -> None:
        case = dataclasses.replace(PLAIN, warmup_steps=warmup, total_steps=total)
        schedule = linear_schedule(OptimConfig(learning_rate=case.learning_rate, warmup_steps=warmup), total)
        for step in range(total + 2):
            assert learning_rate(case, step) == pytest.approx(float(schedule(step)), rel=1e-6, abs=1e-12)

    def test_decay(self) -> None:
        params = params_of(PLAIN)
        mask = to_hf(jax.tree.map(lambda keep, p: np.full(p.shape, keep), *_masked(params)))
        assert {name: bool(m.all()) for name, m in mask.items()} == {name: decays(name) for name in params}

    @pytest.mark.once
    @pytest.mark.parametrize("most", [None, 0.5])
    def test_three_updates(self, most: float | None) -> None:
        case = dataclasses.replace(DROPPED, clip_norm=most, weight_decay=0.1, warmup_steps=1, total_steps=4)
        oracle = OracleTrainer.start(case, params_of(case))
        start = {name: value.copy() for name, value in oracle.params.items()}
        with helpers.precision_scope("float64"):
            rates = [learning_rate(case, step) for step in range(3)]
            optimizer = optax.adamw(
                lambda t: jax.numpy.asarray(rates)[t], b1=case.b1, b2=case.b2, eps=case.eps,
                weight_decay=case.weight_decay, mask={name: decays(name) for name in start},
            )  # fmt: skip
            if most is not None:
                optimizer = optax.chain(optax.clip_by_global_norm(most), optimizer)
            theirs, moments = start, optimizer.init(start)
            update = jax.jit(optimizer.update)
            for step in range(3):
                gradients = value_and_gradient(case, theirs, batch_of(case, step), step).gradients
                result = oracle.step(batch_of(case, step))
                assert isinstance(result, StepResult)
                assert result.learning_rate == learning_rate(case, step)
                updates, moments = jax.device_get(update(gradients, moments, theirs))
                theirs = {name: theirs[name] + updates[name] for name in theirs}
        walked = {name: theirs[name] - params_of(case)[name] for name in theirs}
        done = {name: oracle.params[name] - params_of(case)[name] for name in theirs}
        keys = [name for name in theirs if name.endswith("key.bias")]  # Adam turns their noise into steps
        assert relative(*({n: v for n, v in d.items() if n not in keys} for d in (done, walked))) < 1e-9


def _masked(params: dict[str, np.ndarray]) -> tuple[Any, Any]:
    tree = from_hf(params, model_config(PLAIN))
    return decay_mask(tree), tree


def test_the_bound_near_a_probability_of_1_has_its_roundoff() -> None:
    """Once a false alarm: near p = 1 the gradient p - 1 has the rounding of p, however the parameters change."""
    sure = np.zeros(PLAIN.num_labels)
    sure[0] = 12.0
    params = params_of(PLAIN) | {"classifier.bias": sure}
    batch = batch_of(PLAIN)
    batch = batch._replace(labels=0 * batch.labels, weights=(np.arange(len(batch.weights)) == 0).astype(np.float32))
    reference = gradient_reference(PLAIN, params, batch)
    left, bound = reference.want["classifier.bias"], reference.bounds["classifier.bias"].value
    rounded = np.float32(1 + left[0]) - 1
    # At least half the distance between two numbers below 1, and much less than 1 - p.
    assert 2**-25 < bound < 0.1 * abs(left[0])
    assert abs(rounded - left[0]) < bound
    # The same for updates, where the first moment is (1 - b1) g.
    assert walk(PLAIN, params, [batch]).first.bounds["classifier.bias"].value > (1 - PLAIN.b1) * 2**-25


def test_the_bound_of_a_loss_near_0_has_the_roundoff_of_the_logits() -> None:
    """Once a false alarm: float32 gives 0, or the distance of two numbers near the logit, for a loss of 1e-14."""
    large = 250.0
    params = params_of(PLAIN) | {"classifier.bias": np.array([large, 0.0, 0.0])}
    batch = batch_of(PLAIN)
    batch = batch._replace(labels=0 * batch.labels, weights=(np.arange(len(batch.weights)) == 0).astype(np.float32))
    reference = loss_reference(PLAIN, params, batch)
    want, bound = reference.want["loss"], reference.bounds["loss"].value
    assert want < 1e-12
    assert np.spacing(np.float32(large)) < bound < 1e-3


@pytest.mark.parametrize(("bias", "value", "leaf"), [
    ("bert.pooler.dense.bias", 8.0, "bert.pooler.dense.weight"),  # 1 - tanh(x)^2 = 4.5e-7
    ("bert.encoder.layer.1.intermediate.dense.bias", -5.0, "bert.encoder.layer.1.output.dense.weight"),  # 1 + erf
])  # fmt: skip
def test_the_bound_of_a_saturated_activation_has_its_roundoff(bias: str, value: float, leaf: str) -> None:
    """Once a false alarm, 265 times the bound: float32 leaves one or two bits of 1 - tanh^2 and of 1 + erf."""
    case = dataclasses.replace(PLAIN, eps=1e-8, clip_norm=None, learning_rate=0.01, warmup_steps=0)
    params, weight = params_of(case), bias.replace("bias", "weight")
    params |= {bias: np.full_like(params[bias], value), weight: 0.01 * params[weight]}
    distance = walk(case, params, [batch_of(case)]).distance
    assert 0.01 < distance.bounds[leaf].value / float(np.linalg.norm(distance.want[leaf])) < 5


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_unlikely_labels_are_unlikely_in_the_first_update(rate: float) -> None:
    """Once labels were the unlikely ones of an evaluation; with dropout they were nearly certain in some updates."""
    case = dataclasses.replace(PLAIN, hidden_dropout=rate, classifier_dropout=rate)
    params = {name: leaf * 256.0 if name.startswith("classifier.") else leaf for name, leaf in params_of(case).items()}
    for seed, row in itertools.product(range(3), range(5)):
        batch = batch_of(case, seed)
        batch = batch._replace(weights=(np.arange(len(batch.weights)) == row).astype(np.float32))
        assert mean_loss(case, params, with_unlikely_labels(case, params, batch)) > 88


def test_the_oracle_imports_no_jax() -> None:
    code = "import sys, sftref.conformance.oracle.updates; "
    code += "print([m for m in sys.modules if m.split('.')[0] in ('jax', 'flax')])"
    # -P: the installed package, not the source tree around the working directory.
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
