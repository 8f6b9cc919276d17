"""sftref's adapters do what the oracle does, and an adapter that cannot be used is refused with the reason."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from kit import DROPPED, B, L, batch_of, params_of, relative
from sftref.conformance.adapter import AdapterError, check_adapter, load_adapter
from sftref.conformance.adapters import article, examples
from sftref.conformance.oracle.model import evaluate, value_and_gradient
from sftref.conformance.oracle.updates import OracleTrainer

pytestmark = pytest.mark.jax

CASE = dataclasses.replace(DROPPED, total_steps=4, warmup_steps=1, weight_decay=0.1)
DEVICES = {"single": 1, "pmap": 4, "mesh": 4, "shard_map": 4}  # of six rows on four devices, the last has padding only
TORCH = ("single", "with_padding_token", "ddp")


def without_key_biases(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their gradient is rounding noise, which Adam turns into steps of full size."""
    return {name: value for name, value in arrays.items() if not name.endswith("key.bias")}


# Under another release of JAX one kind is enough, since `tests/trainers` compares them with each other there.
@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k == "mesh" else pytest.mark.once) for k in DEVICES])
def test_two_updates_are_those_of_the_oracle(kind: str, tmp_path: Path) -> None:
    subject = load_adapter(f"sftref.conformance.adapters.sftref:{kind}")
    start = params_of(CASE)
    subject.start(CASE, start, DEVICES[kind])
    oracle = OracleTrainer.start(CASE, start)
    first, second = batch_of(CASE, 2), batch_of(CASE, 3)

    want = value_and_gradient(CASE, start, first)
    got = {name: np.asarray(g, np.float64) for name, g in subject.gradients(first).items()}
    # Depth 2 and width 12 in float32: a few tens of roundings of 6e-8 on the way.
    assert relative(got, want.gradients) < 5e-6
    other = value_and_gradient(CASE, start, second).gradients
    assert relative(got, other) > 0.1, "the control: another batch has another gradient"
    assert np.allclose(subject.evaluate(first)[:-1], evaluate(CASE, start, first)[:-1], rtol=1e-4, atol=1e-4)

    for batch in (first, second):
        result, expected = subject.step(batch), oracle.step(batch)
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        assert result.learning_rate == pytest.approx(expected.learning_rate, rel=1e-6)
    assert result.learning_rate > 0, "the second update must move something"
    now = {name: np.asarray(p, np.float64) for name, p in subject.params().items()}
    want_change = {name: oracle.params[name] - start[name].astype(np.float32) for name in start}
    change = {name: now[name] - start[name].astype(np.float32) for name in start}
    assert relative(without_key_biases(change), without_key_biases(want_change)) < 1e-3

    replicas = subject.replicas()
    assert len(replicas) == DEVICES[kind]
    assert all((copy[name] == replicas[0][name]).all() for copy in replicas for name in start)

    subject.save(tmp_path)
    later = subject.step(first)
    moved = subject.params()
    subject.start(CASE, start, DEVICES[kind])
    subject.restore(tmp_path)
    assert subject.step(first) == later
    assert all((subject.params()[name] == moved[name]).all() for name in start)


def test_a_batch_changed_after_the_call_changes_nothing() -> None:
    """On a CPU `device_put` may keep the caller's buffer; the adapter must copy it."""
    subject = load_adapter("sftref.conformance.adapters.sftref:single")
    subject.start(CASE, params_of(CASE), 1)
    batch = batch_of(CASE)
    placed = subject._put(batch)
    before = [np.array(leaf) for leaf in placed]
    for leaf in batch:
        leaf[...] = 1
    assert all((np.asarray(leaf) == old).all() for leaf, old in zip(placed, before, strict=True))
    assert before[0].shape == (1, B, L)


class Half:
    """A trainer that claims a capability without its method."""

    name = "half"
    capabilities = frozenset({"gradients"})
    start = step = evaluate = params = lambda self: None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must be MODULE:FACTORY"),
        ("no.such.module:f", "cannot be found"),
        ("math:nothing", "in it, as in sftref.conformance.adapters.sftref:mesh"),
        ("math:pi", "is a float, must be a class or a function"),
        ("math:sqrt", "could not be made (TypeError"),
        ("builtins:dict", "name = None, must be a str"),
        ("test_adapters:Half", "has no method gradients()"),
    ],
)
def test_an_adapter_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(AdapterError) as error:
        load_adapter(name)
    assert str(error.value).startswith(f"--adapter {name}: ")
    assert message in str(error.value)


def test_the_article_keeps_its_public_path() -> None:
    for name in ("pmap", "mesh", "pmap_dropout", "mesh_dropout"):
        public = load_adapter(f"sftref.conformance.adapters.article:{name}")
        assert public.name == load_adapter(f"sftref.conformance.adapters.examples.article:{name}").name
    assert article.Article is examples.article.Article


def test_torch_keeps_its_public_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyTorch and transformers: only `torch_rank.py` and the example import them."""
    rank = ModuleType("torch_rank")
    vars(rank).update(Rank=type("Rank", (), {}), Parts=None)
    monkeypatch.setitem(sys.modules, "sftref.conformance.adapters.torch_rank", rank)
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    names = {name: load_adapter(f"sftref.conformance.adapters.torch:{name}").name for name in TORCH}
    assert names == {name: load_adapter(f"{examples.__name__}.torch:{name}").name for name in TORCH}
    for name in (f"{examples.__name__}.torch", "sftref.conformance.adapters.torch"):
        monkeypatch.delitem(sys.modules, name)  # they keep the stand-in


def test_an_unknown_capability_is_refused() -> None:
    subject = Half()
    subject.capabilities = frozenset({"gradient"})
    with pytest.raises(AdapterError, match="capability 'gradient' is unknown, must be one of accumulation, "):
        check_adapter(subject, "mine")


def test_an_error_passes_a_context_manager_unchanged() -> None:
    """Python writes the traceback into the error, which a frozen dataclass would not allow."""

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        yield

    with pytest.raises(AdapterError, match="--adapter nothing: must be"), around():
        load_adapter("nothing")
