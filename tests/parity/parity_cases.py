"""Shared by the parity tests: checkpoints, batches, our logits and gradients, and the distance between results.

A checkpoint is a folder written by `save_pretrained`; the peer opens it with its own loader. So these tests check the
exported files as well as the arithmetic.
"""

import abc
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from kit import host_batch

from sftref.config import ModelConfig, OptimConfig
from sftref.data.batches import Batch, pad
from sftref.data.packing import pack, packed_layout
from sftref.data.tokens import TokenArrays
from sftref.model import tiny
from sftref.model.names import Flat, Params, from_hf, leaves, to_hf
from sftref.model.pretrained import load_pretrained, save_pretrained
from sftref.train.step import Program, eval_step, mean_gradients
from sftref.trainers.single import identity

EXAMPLES = 9
LENGTHS = (3, 24, 17, 5, 24, 11, 8, 20, 4)

# Relative errors in the l2 norm. Two correct implementations differ by the order of their sums: some tens of units of
# round-off (6e-8 and 1.1e-16) after a few layers. Measured on two CPU cores, over both peers: float32 at most 1.8e-6
# (logits), 1.0e-6 (gradient) and 5.4e-6 (a single leaf); float64 2.8e-15, 1.8e-15 and 9.5e-15. The controls, in
# float32: gradients off by 9e-5 (epsilon of LayerNorm 1e-5 for 1e-12), 4e-4 (tanh GELU), 0.6 (2 heads for 4).
BOUNDS = {"float32": 1e-5, "float64": 1e-11}


@dataclass(frozen=True, eq=False)
class Case:
    """A checkpoint to compare on.

    Attributes:
        name: the id of the test.
        labels: C; 1 means regression.
        sizes: the dimensions of a random checkpoint with every parameter perturbed; None for the demo as it is.
    """

    name: str
    labels: int
    sizes: dict[str, int] | None = None


def _sizes(v: int, d: int, layers: int, h: int, f: int, p: int, t: int = 2) -> dict[str, int]:
    return {
        "vocab_size": v, "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": h,
        "intermediate_size": f, "max_position_embeddings": p, "type_vocab_size": t,
    }  # fmt: skip


CASES = (
    Case("two_layers", 2, _sizes(101, 32, 2, 4, 64, 40)),
    Case("three_layers", 3, _sizes(211, 48, 3, 3, 96, 64, 3)),
    Case("one_layer", 1, _sizes(57, 24, 1, 2, 100, 32)),
    Case("four_layers", 2, _sizes(73, 40, 4, 5, 36, 24)),
    Case("demo_2", 2),
    Case("demo_3", 3),
    Case("demo_regression", 1),
)


@functools.lru_cache(maxsize=1)  # the demo has 22.7 million parameters
def model_of(case: Case, precision: str) -> tuple[ModelConfig, Params]:
    """The configuration and the parameters of a case, NumPy arrays of that precision."""
    dtype = np.dtype(precision)
    regression = case.labels == 1
    if case.sizes is None:
        demo = load_pretrained("demo", num_labels=case.labels, regression=regression, seed=7, dtype=dtype)
        return demo.config, demo.params
    config = ModelConfig(**case.sizes, num_labels=case.labels, regression=regression)
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    flat = {}
    for leaf in leaves(config):
        # Wide enough for every non-linearity to matter: N(0, 0.2^2) weights, biases and shifts of the scales.
        flat[leaf.name] = (float(leaf.path[-1] == "scale") + 0.2 * rng.standard_normal(leaf.shape)).astype(dtype)
    return config, from_hf(flat, config)


def write_checkpoint(case: Case, precision: str, folder: Path, **overrides: Any) -> Path:
    """The case as a folder; `overrides` change its config.json, for the control."""
    import json

    config, params = model_of(case, precision)
    save_pretrained(folder, params, config, tiny.tokenizer(), {})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | overrides))
    return folder


def examples(config: ModelConfig) -> TokenArrays:
    """Nine examples of ragged lengths, some of two segments, with labels."""
    rng = np.random.default_rng(20240125)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    position = np.concatenate([np.arange(n) for n in LENGTHS])
    second = np.repeat([n // 2 if i % 3 else n for i, n in enumerate(LENGTHS)], LENGTHS)
    labels = rng.normal(2.5, 1.5, EXAMPLES) if config.regression else rng.integers(0, config.num_labels, EXAMPLES)
    return TokenArrays(
        # Not 0: PyTorch's table has padding_idx = 0, so that its row for [PAD] gets no gradient even where an example
        # has it, which no tokenizer makes. FlaxBert and the model here have no such rule.
        input_ids=rng.integers(1, config.vocab_size, offsets[-1], dtype=np.int32),
        token_type_ids=(position >= second).astype(np.uint8),
        offsets=offsets.astype(np.int64),
        labels=labels.astype(np.float32 if config.regression else np.int32),
        example_ids=np.arange(100, 100 + EXAMPLES, dtype=np.uint32),
    )


def rectangle(tokens: TokenArrays) -> dict[str, np.ndarray]:
    """The examples as other implementations take them: int32 [B, L] arrays, the padding with arbitrary ids."""
    return {k: v for k, v in host_batch(tokens, filler=5)._asdict().items() if v.shape[1:]}


def batches(tokens: TokenArrays) -> dict[str, Batch]:
    """All examples in one micro-batch, padded and packed, in the same shape: two rows more than padding needs."""
    index = np.arange(EXAMPLES)
    length = max(LENGTHS) + 4
    layout = packed_layout(tokens, EXAMPLES, length, 1)._replace(rows=EXAMPLES + 2)
    both = {"padded": pad(tokens, index, layout), "packed": pack(tokens, index, layout, 1)}
    most = {name: (batch.weights > 0).sum(axis=2).max() for name, batch in both.items()}
    assert most["padded"] == 1, most
    assert most["packed"] > 1, most
    return both


def ours(case: Case, precision: str) -> dict[str, tuple[np.ndarray, Flat]]:
    """For each kind of batch: our logits [B, C] by example, and the gradient of the mean loss, without dropout."""
    config, params = model_of(case, precision)
    program = Program.of(config, OptimConfig(), total_steps=1, dropout="off", precision=precision)

    @jax.jit
    def compute(params: Params, batch: Batch) -> tuple[Any, Any]:
        state = program.state(params, 0)
        return eval_step(program, state, batch, identity)[1], mean_gradients(program, state, batch, identity)[1]

    results = {}
    for name, batch in batches(examples(config)).items():
        logits, gradients = jax.device_get(compute(params, batch))
        real = batch.weights[0] > 0
        order = np.argsort(batch.example_ids[0][real])
        assert order.size == EXAMPLES
        results[name] = logits[real][order], to_hf(gradients)
    return results


@dataclass(frozen=True)
class Distance:
    """The difference of two results, relative to the peer's.

    Attributes:
        logits: l2 norm of the difference over that of the peer's.
        gradient: the same over all leaves except the key biases.
        worst: the greatest of the same leaf by leaf, and the leaf's name.
        key_bias: l2 norm of the key biases' gradients, ours or theirs, over that of the whole gradient. In exact
            arithmetic they are 0, since a constant added to all scores of a query changes no probability; so each is
            round-off, and their difference means nothing.
    """

    logits: float
    gradient: float
    worst: float
    leaf: str
    key_bias: float

    def within(self, bound: float) -> bool:
        """Whether logits, gradient and key biases are below `bound`, and each leaf below ten times that."""
        return max(self.logits, self.gradient, self.key_bias, self.worst / 10) < bound

    def __str__(self) -> str:
        return (
            f"logits {self.logits:.1e}, gradient {self.gradient:.1e}, "
            f"worst leaf {self.worst:.1e} ({self.leaf}), key biases {self.key_bias:.1e}"
        )


def distance(got: tuple[np.ndarray, Flat], want: tuple[np.ndarray, Flat]) -> Distance:
    """The distance of our (logits, gradients) from the peer's."""
    (logits, gradients), (peer_logits, peer) = got, want
    assert gradients.keys() == peer.keys()
    assert all(gradients[name].shape == peer[name].shape for name in peer)
    keys = [name for name in peer if name.endswith("self.key.bias")]
    rest = [name for name in peer if name not in keys]

    def norm(arrays: list[np.ndarray]) -> float:
        return float(np.sqrt(sum(np.sum(np.square(a.astype(np.float64))) for a in arrays)))

    def apart(name: str) -> np.ndarray:
        return gradients[name].astype(np.float64) - peer[name]

    whole = norm([peer[name] for name in rest])
    by_leaf = {name: norm([apart(name)]) / norm([peer[name]]) for name in rest}
    leaf = max(by_leaf, key=by_leaf.__getitem__)
    return Distance(
        logits=norm([logits.astype(np.float64) - peer_logits]) / norm([peer_logits]),
        gradient=norm([apart(name) for name in rest]) / whole,
        worst=by_leaf[leaf],
        leaf=leaf,
        key_bias=max(norm([flat[name] for name in keys]) for flat in (gradients, peer)) / whole,
    )


Peer = Callable[[Path, TokenArrays, ModelConfig, str], tuple[np.ndarray, Flat]]


class Parity(abc.ABC):
    """Logits and gradients equal the peer's, to round-off. A subclass gives the peer."""

    @abc.abstractmethod
    def peer(self, folder: Path, tokens: TokenArrays, config: ModelConfig, precision: str) -> tuple[np.ndarray, Flat]:
        """The peer's logits [B, C] and gradients of its mean loss, from a checkpoint's folder."""

    @pytest.fixture(autouse=True)
    def _wide_numbers(self) -> Any:
        """float64 has to be enabled in JAX; results in float32 do not change."""
        yield
        jax.config.update("jax_enable_x64", False)

    @pytest.mark.parametrize("precision", list(BOUNDS))
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_logits_and_gradients(self, case: Case, precision: str, tmp_path: Path, record_property: Any) -> None:
        """Padded and packed, they MUST equal the peer's."""
        jax.config.update("jax_enable_x64", precision == "float64")
        config, _ = model_of(case, precision)
        want = self.peer(write_checkpoint(case, precision, tmp_path / "m"), examples(config), config, precision)
        assert want[0].shape == (EXAMPLES, case.labels)
        assert want[0].dtype == np.dtype(precision)
        assert {g.dtype for g in want[1].values()} == {np.dtype(precision)}
        for layout, got in ours(case, precision).items():
            assert got[0].dtype == np.dtype(precision)
            difference = distance(got, want)
            print(f"\n{case.name}, {precision}, {layout}: {difference}")
            record_property(layout, str(difference))
            assert difference.within(BOUNDS[precision]), f"{layout}: {difference}, must be below {BOUNDS[precision]:g}"

    @pytest.mark.parametrize(
        "fault",
        [{"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-5}, {"num_attention_heads": 2}],
        ids=lambda f: next(iter(f)),
    )
    def test_the_bound_sees_another_model(self, fault: dict[str, Any], tmp_path: Path) -> None:
        """Control: a peer with another constant MUST be out of bounds, in float32 already."""
        case = CASES[0]
        config, _ = model_of(case, "float32")
        folder = write_checkpoint(case, "float32", tmp_path / "m", **fault)
        difference = distance(ours(case, "float32")["packed"], self.peer(folder, examples(config), config, "float32"))
        print(f"\ncontrol {fault}: {difference}")
        assert difference.logits > BOUNDS["float32"], str(difference)
        assert difference.gradient > 5 * BOUNDS["float32"], str(difference)
