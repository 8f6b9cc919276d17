"""Variants of the oracle: each differs from it, and is found again from its numbers, alone and with others."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from sftref.conformance.adapter import Case, HostBatch
from sftref.conformance.oracle.cases import MAIN, start_params
from sftref.conformance.oracle.draws import batch_of
from sftref.conformance.oracle.tape import Params
from sftref.conformance.oracle.variants.replay import Call, Log
from sftref.conformance.oracle.variants.search import explain
from sftref.conformance.oracle.variants.table import AT, WRONG, Variant, all_variants, named, trainer_of, variants

pytestmark = pytest.mark.once

SECONDS = 60.0
# A small model whose run has everything in which a variant can differ: two layers, ragged shards, dropout, clipping.
WHOLE = dataclasses.replace(
    MAIN, hidden_size=8, num_attention_heads=2, intermediate_size=12, total_steps=4, warmup_steps=2,
    seed=2**33 + 7, weight_decay=0.3, learning_rate=0.02, eps=2e-3, b2=0.93, clip_norm=2.0,
)  # fmt: skip
CASES = (
    WHOLE,
    dataclasses.replace(WHOLE, num_labels=1, regression=True, accumulate=2),
    dataclasses.replace(WHOLE, warmup_steps=0, clip_norm=300.0),
    dataclasses.replace(WHOLE, clip_norm=0.01),
)


def run_of(case: Case) -> tuple[Params, list[HostBatch]]:
    rng = np.random.default_rng(1)
    return start_params(case, rng), [batch_of(case, rng, real=real) for real in (16, 11, 16, 13, 15)]


def log_of(several: Sequence[Variant], case: Case, n: int, updates: int = 3) -> Log:
    """The log of a trainer with these differences, whose results are rounded to float32."""
    params, batches = run_of(case)
    trainer, log = trainer_of(several), Log(case, params, n)
    trainer.start(case, params, n)

    def call(method: str, batch: HostBatch | None = None) -> None:
        result = getattr(trainer, method)(*(() if batch is None else (batch,)))
        log.calls.append(Call(method, batch, narrow(result)))

    call("evaluate", batches[0])
    for batch in batches[:updates]:
        call("gradients", batch)
        call("step", batch)
        call("params")
        trainer.now = log.calls[-1].result
        call("moments")
        call("evaluate", batch)
    return log


def narrow(result: Any) -> Any:
    if hasattr(result, "_fields"):
        return type(result)(*(float(np.float32(value)) for value in result))
    if isinstance(result, tuple):
        return tuple(narrow(one) for one in result)
    if isinstance(result, dict):
        return {name: narrow(leaf) for name, leaf in result.items()}
    return np.asarray(result).astype(np.float32).astype(np.float64)


def numbers(several: Sequence[Variant], case: Case) -> Iterator[np.ndarray]:
    """What a run of five updates on three devices gives, one after another."""
    params, batches = run_of(case)
    trainer = trainer_of(several)
    trainer.start(case, params, 3)
    for update, batch in enumerate(batches):
        if update == 3:
            saved = dict(vars(trainer))
            trainer.start(case, {name: leaf * 0.5 for name, leaf in params.items()}, 3)
            trainer.restored(saved)
        yield np.array(trainer.step(batch))
        yield trainer.evaluate(batch)
        yield from (*trainer.params().values(), *(leaf for kind in trainer.moments() for leaf in kind.values()))


def test_every_entry_has_a_function_and_every_function_an_entry() -> None:
    assert {one.entry for one in variants().values() if not one.field} == WRONG.keys()
    assert all(one.cause.endswith((".", ".)")) and one.next_step.endswith(".") for one in all_variants().values())
    assert named("label-smoothing(0.123)").value == 0.123
    assert named("layer-norm-epsilon(0.5)@training").methods().keys() == {"network", "evaluate"}
    assert named("label-smoothing") is named("no-such(1)") is named("mask-ignored(x)") is None


def test_every_variant_differs_from_the_oracle_in_some_run() -> None:
    alike = set(variants().values())
    with np.errstate(all="ignore"):
        for case in CASES:
            right = [*numbers((), case)]
            for variant in [one for one in alike if one.differs(case, 3)]:
                pairs = zip(numbers((variant,), case), right, strict=True)
                if not all(np.allclose(one, other, rtol=1e-9, atol=0, equal_nan=True) for one, other in pairs):
                    alike.remove(variant)
    assert not {one.id for one in alike}


def test_a_right_trainer_needs_no_explanation() -> None:
    assert explain([log_of((), WHOLE, 1)], SECONDS) is None


@pytest.mark.parametrize(
    "names",
    [
        ("gelu-by-tanh",), ("labels-shifted-in-shards(+1)",), ("epsilon-in-the-root",), ("label-smoothing(0.033)",),
        ("gelu-by-tanh", "mask-by-token-id"), ("token-types-ignored@training",),
        *(
            pytest.param(names, marks=pytest.mark.slow)
            for names in (
                ("mask-by-token-id",), ("label-smoothing(0.1)",), ("masks-of-another-step(+1)",), ("mean-of-means",),
                ("batch-before",), ("stale-parameters",), ("decay-in-the-gradient(before)",),
                ("clipped-by-device(as a plain mean)",), ("norm-leaves-out(embeddings)",),
                ("parameters-stored-in(bfloat16)",), ("evaluates-an-average(0.99)",), ("loss-of-the-update-before",),
                ("square-weights-transposed",), ("mask-multiplied@evaluation",), ("heads-not-transposed",),
                ("gradient-of-the-update-before(its own)",), ("labels-exchanged(0 and 2)",), ("variance-detached",),
                # A value that is not in the table is fitted.
                ("weight-decay(0.07)",), ("layer-norm-epsilon(0.0003)",),
                # Two and three together, of one stage and of several.
                ("no-decay", "not-clipped"), ("token-types-ignored", "no-bias-correction"),
                ("gelu-by-tanh", "layer-norm-epsilon(1e-05)", "mask-by-token-id"),
            )
        ),
    ],
    ids=" and ".join,
)  # fmt: skip
def test_a_variant_is_found_from_its_numbers(names: tuple[str, ...]) -> None:
    several = [one for name in names if (one := named(name))]
    assert len(several) == len(names)
    n = 3 if any(one.needs == "devices" for one in several) else 1
    explanation = explain([log_of(several, WHOLE, n)], SECONDS)
    assert explanation is not None
    assert explanation.before.margin > 1 >= explanation.after.margin
    assert {one.id for one in explanation.found[0]} == set(names), explanation


@pytest.mark.parametrize("name", ["micro-batch-lost(last)@blocks", "saved-in(parameters in bfloat16)"])
def test_a_variant_of_some_settings_is_found(name: str) -> None:
    case = dataclasses.replace(WHOLE, accumulate=2) if AT in name else WHOLE
    variant, params, batches = named(name), *run_of(case)
    trainer, log = trainer_of([variant]), Log(case, params, 3)
    trainer.start(case, params, 3)

    def call(method: str, batch: HostBatch | None = None) -> None:
        result = getattr(trainer, method)(*(() if batch is None else (batch,)))
        log.calls.append(Call(method, batch, narrow(result)))

    call("step", batches[0])
    call("params")
    trainer.now, state = log.calls[-1].result, dict(vars(trainer))
    if AT not in name:
        trainer.start(case, {k: leaf * 0.5 for k, leaf in params.items()}, 3)
        trainer.restored(state)
        log.calls += [Call("save"), Call("start", None, params), Call("restore")]
        call("params")
    call("step", batches[1])
    call("params")
    explanation = explain([log], SECONDS)
    assert explanation is not None
    assert [one.id for one in explanation.found[0]] == [name]


def test_a_known_explanation_is_joined_by_another_one() -> None:
    names = ("gelu-by-tanh", "mask-by-token-id", "no-bias-correction")
    several = [named(name) for name in names]
    explanation = explain([log_of(several, WHOLE, 1)], SECONDS, known=[tuple(several[:2])], deepest=1)
    assert explanation is not None
    assert {one.id for one in explanation.found[0]} == set(names)


def test_numbers_that_no_variant_gives_stay_unexplained() -> None:
    log = log_of((), WHOLE, 1)
    rng = np.random.default_rng(0)
    for i, call in enumerate(log.calls):
        if call.method == "gradients":
            noisy = {name: leaf * (1 + 0.1 * rng.standard_normal(leaf.shape)) for name, leaf in call.result.items()}
            log.calls[i] = call._replace(result=noisy)
    began = time.thread_time()
    explanation = explain([log], 5.0)
    assert explanation is not None
    assert (explanation.found, explanation.before.what) == ((), "gradient of update 0")
    assert explanation.measured[0].startswith("gradient of update 0: wrong in")
    assert time.thread_time() - began < 15.0


def test_no_value_is_fitted_to_one_loss() -> None:
    # The first update of a warm-up moves nothing, so the parameters after it are no evidence.
    log = log_of((), WHOLE, 1, updates=1)
    step, params = (next(call for call in log.calls if call.method == method) for method in ("step", "params"))
    log.calls = [step._replace(result=step.result._replace(loss=step.result.loss * 1.07)), params]
    explanation = explain([log], SECONDS)
    assert explanation is not None
    assert (explanation.found, explanation.before.what) == ((), "loss of update 0")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda leaf, name, lengths: leaf * 1.001, "1.001 times the oracle's in every leaf"),
        (
            lambda leaf, name, lengths: leaf * ("pooler" not in name),
            "bert.pooler.dense.weight, bert.pooler.dense.bias zero",
        ),
        (lambda leaf, name, lengths: leaf * np.nan, "NaN or infinity in"),
    ],
)
def test_what_is_wrong_is_measured(change: Any, sentence: str) -> None:
    log = log_of((), WHOLE, 1)
    log.calls[:] = [call for call in log.calls if call.method == "gradients"][:1]
    call = log.calls[0]
    log.calls[0] = call._replace(result={name: change(leaf, name, None) for name, leaf in call.result.items()})
    explanation = explain([log], SECONDS)
    assert explanation is not None
    assert sentence in "; ".join(explanation.measured)


def test_wrong_rows_are_described_by_what_only_they_have_in_common() -> None:
    log = log_of((), WHOLE, 1)
    call = log.calls[0]
    odd = call.batch.attention_mask.sum(axis=1) % 2 == 1
    log.calls[:] = [call._replace(result=call.result + odd[:, None])]
    explanation = explain([log], SECONDS)
    assert explanation is not None
    assert explanation.measured[-1] == "these are the rows of odd length"


@pytest.mark.parametrize("name", sorted({one.entry for one in all_variants().values() if one.group == "clipping"}))
def test_a_clipping_of_gradients_that_are_zero_ends_no_search(name: str) -> None:
    """Another variant can give such gradients; a division by zero once hid what explains a trainer's numbers."""
    for variant in (one for one in all_variants().values() if one.entry == name):
        trainer = trainer_of((variant,))
        params = start_params(MAIN, np.random.default_rng(0))
        trainer.start(MAIN, params, 1)
        try:
            clipped = trainer.clip({leaf: np.zeros_like(value) for leaf, value in params.items()})
        except KeyError:
            continue  # what it needs is noted by a step before
        assert not any(leaf.any() for leaf in clipped.values())
