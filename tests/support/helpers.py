"""What the tests share: a tiny BERT, ragged examples, one number for an error, and NumPy references without JAX.

The references (Threefry, the masks of `sftref/dropout.py`, the forward pass) are written from the papers and from the
documented formulas, example by example, in float64: no padding, no packing, no device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from sftref.config import ModelConfig, Precision
from sftref.data.batches import Batch, Layout, pad
from sftref.data.tokens import TokenArrays
from sftref.model.bert import BertForSequenceClassification
from sftref.model.layers import Numerics

VOCABULARY, LENGTH = 50, 16
GARBAGE = 10**6  # beyond every table
KEY_BIAS = ("attention", "key", "bias")

Arrangement = Literal["empty", "uneven"]


def precision_scope(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """float64 needs 64-bit types in JAX; the others need nothing."""
    if precision != "float64":
        return contextlib.nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()  # before JAX 0.8


def model_config(**changes: Any) -> ModelConfig:
    """A tiny BERT: width 12, 3 heads (neither a multiple of the 4 lanes of a mask), three dropout rates."""
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "max_position_embeddings": LENGTH,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.2,
        "classifier_dropout": 0.3,
        "num_labels": 3,
    }
    return ModelConfig(**values | changes)


def token_arrays(lengths: Iterable[int], *, classes: int = 3, regression: bool = False, seed: int = 0) -> TokenArrays:
    """Random examples of these lengths; ids and labels are random, example ids distinct and from all of uint32."""
    rng = np.random.default_rng(seed)
    sizes = np.fromiter(lengths, np.int64)
    n, total = len(sizes), int(sizes.sum())
    labels = rng.uniform(0, 5, n).astype(np.float32) if regression else rng.integers(0, classes, n).astype(np.int32)
    ids = np.unique(rng.integers(0, 2**32, 2 * n + 8, dtype=np.uint32))
    return TokenArrays(
        input_ids=rng.integers(0, VOCABULARY, total).astype(np.int32),
        token_type_ids=rng.integers(0, 2, total).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        labels=labels,
        example_ids=rng.permutation(ids)[:n],
    )


def ragged(n: int, *, seed: int = 0, **kwargs: Any) -> TokenArrays:
    """`n` examples of 3 to 16 tokens, both among them."""
    lengths = np.random.default_rng([seed, n]).integers(3, LENGTH + 1, n)
    lengths[: min(n, 2)] = (3, LENGTH)[:n]
    return token_arrays(lengths, seed=seed, **kwargs)


def parameters(model: ModelConfig, *, precision: Precision = "float32", seed: int = 0) -> Any:
    """Random parameters as NumPy: attention is not uniform, biases are not 0, LayerNorm scales are not 1."""
    rng = np.random.default_rng(seed)
    micro = jax.tree.map(lambda a: a[0], pad(token_arrays([3]), np.arange(1), Layout(1, 1, 4, 1)))
    module = BertForSequenceClassification(model, Numerics.of("float32"))
    shapes = traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), micro)["params"])
    dtype = np.float64 if precision == "float64" else np.float32

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        noise = rng.normal(size=shape)
        if path[-1] == "kernel":
            return 1.5 * noise / math.sqrt(shape[0])
        return {"embedding": 0.5, "bias": 0.3, "scale": 0.3}[path[-1]] * noise + (path[-1] == "scale")

    leaves = {path: draw(path, leaf.shape).astype(dtype) for path, leaf in sorted(shapes.items())}
    return traverse_util.unflatten_dict(leaves)


def leaves(tree: Any) -> dict[tuple[str, ...], np.ndarray]:
    """The leaves of nested dictionaries by path, float64."""
    flat = traverse_util.flatten_dict(jax.device_get(tree))
    return {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}


def norm(tree: Any, *, key_biases: bool | None = False) -> float:
    """The l2 norm of all leaves but the key biases; of the key biases alone (True); of everything (None).

    The gradient of a key bias is 0 in exact arithmetic, for it adds the same number to all scores of a query, and a
    softmax does not see that. What is computed is rounding noise, whose own relative error is about 1.
    """
    chosen = (a for path, a in leaves(tree).items() if key_biases is None or (path[-3:] == KEY_BIAS) == key_biases)
    return math.sqrt(sum(float(np.sum(np.square(a))) for a in chosen))


def difference(a: Any, b: Any) -> Any:
    """A - b, leaf by leaf, in float64; the trees must be alike."""
    x, y = leaves(a), leaves(b)
    assert {path: leaf.shape for path, leaf in x.items()} == {path: leaf.shape for path, leaf in y.items()}
    return traverse_util.unflatten_dict({path: x[path] - y[path] for path in x})


def relative_error(got: Any, want: Any) -> float:
    """|got - want| / |want|, l2 norms over all leaves but the key biases; infinite where something is not finite."""
    scale = norm(want)
    assert scale > 0, "nothing to compare with"
    error = norm(difference(got, want)) / scale
    return error if math.isfinite(error) else math.inf


def places(rows: int, layout: Layout, devices: int, arrangement: Arrangement) -> np.ndarray:
    """Where `rows` occupied rows go, int64 [rows] in 0 .. K*R - 1, at random within each device.

    `empty`: the devices are filled up one after the other, and the last of several stays empty. `uneven`: one row each
    as far as they go, and the others as before.
    """
    k, r = layout.micro, layout.rows
    of_device = np.arange(k * r) % r // (r // devices)
    rng = np.random.default_rng([rows, k, r, devices])
    free = [rng.permutation(np.flatnonzero(of_device == d)).tolist() for d in range(devices)]
    taken = [queue.pop() for queue in free][:rows] if arrangement == "uneven" else []
    taken += [place for queue in free for place in queue][: rows - len(taken)]
    return np.asarray(taken)


def spread(batch: Batch, place: np.ndarray, layout: Layout) -> Batch:
    """The first rows of `batch` [1, R', ...] at `place` in [K, R, ...], and garbage in all others."""

    def scatter(name: str, leaf: np.ndarray) -> np.ndarray:
        filler = 0 if name in ("segments", "weights", "starts") else GARBAGE
        out = np.full((layout.micro * layout.rows, *leaf.shape[2:]), filler, leaf.dtype)
        out[place] = leaf[0, : len(place)]
        return out.reshape(layout.micro, layout.rows, *leaf.shape[2:])

    return Batch(**{name: scatter(name, leaf) for name, leaf in batch._asdict().items()})


# Threefry-2x32 with 20 rounds, as in section 3.3 of Salmon et al. (SC 2011).

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def threefry(key: Any, counter: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two words of noise for two words of key and of counter, uint32 and broadcastable."""
    k0, k1 = (np.asarray(k, np.uint32) for k in key)
    x0, x1 = np.broadcast_arrays(*(np.asarray(c, np.uint32) for c in counter))
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + schedule[0], x1 + schedule[1]
        for block in range(5):
            for distance in ROTATIONS[block % 2]:
                x0 = x0 + x1
                x1 = ((x1 << np.uint32(distance)) | (x1 >> np.uint32(32 - distance))) ^ x0
            x0 = x0 + schedule[(block + 1) % 3]
            x1 = x1 + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1


class Masks(NamedTuple):
    """Factors of dropout by address: 0 where dropped, 1 / keep elsewhere."""

    seed: int
    step: int
    example: int

    def _words(self, site: int, c1: np.ndarray) -> np.ndarray:
        """uint64: the first word low, the second high."""
        key = threefry((self.seed >> 32, self.seed & 0xFFFFFFFF), (self.step, site))
        x0, x1 = threefry(key, (self.example, c1))
        return x0.astype(np.uint64) | (x1.astype(np.uint64) << np.uint64(32))

    def _factor(self, words: np.ndarray, lane: np.ndarray, rate: float) -> np.ndarray:
        dropped = round(rate * 65536)
        noise = (words >> (np.uint64(16) * lane.astype(np.uint64))) & np.uint64(0xFFFF)
        return np.where(noise >= dropped, 65536 / (65536 - dropped), 0.0)

    def hidden(self, site: int, position: np.ndarray, width: int, rate: float) -> np.ndarray:
        """[P] -> [P, width]."""
        feature, groups = np.arange(width), -(-width // 4)
        words = self._words(site, position[:, None] * 2**16 + feature % groups)
        return self._factor(words, feature // groups, rate)

    def attention(self, site: int, query: np.ndarray, key: np.ndarray, heads: int, rate: float) -> np.ndarray:
        """[Q], [P] -> [heads, Q, P]."""
        head, groups = np.arange(heads)[:, None, None], -(-heads // 4)
        words = self._words(site, head % groups * 2**24 + query[:, None] * 2**12 + key)
        return self._factor(words, head // groups, rate)


def _affine(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def _layer_norm(p: Any, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + eps) * p["scale"] + p["bias"]


def reference_logits(params: Any, model: ModelConfig, ids: Any, types: Any, masks: Masks | None = None) -> np.ndarray:
    """BERT (Devlin et al., 2019) on the n tokens of one example -> logits [C], every layer at every token."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    n, heads, eps = len(ids), model.num_attention_heads, model.layer_norm_eps
    at, rate = np.arange(n), model.hidden_dropout_prob

    def drop(x: np.ndarray, site: int, rate: float) -> np.ndarray:
        return x if masks is None else x * masks.hidden(site, at[: len(x)], x.shape[-1], rate)

    p = params["embeddings"]
    x = p["word_embeddings"]["embedding"][ids] + p["token_type_embeddings"]["embedding"][types]
    x = drop(_layer_norm(p["LayerNorm"], x + p["position_embeddings"]["embedding"][:n], eps), 0, rate)
    for i in range(model.num_hidden_layers):
        p, site = params[f"layer_{i}"], 8 * i
        a = p["attention"]
        q, k, v = (_affine(a[name], x).reshape(n, heads, -1).swapaxes(0, 1) for name in ("query", "key", "value"))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        if masks is not None:
            weights = weights * masks.attention(site + 1, at, at, heads, model.attention_probs_dropout_prob)
        context = (weights @ v).swapaxes(0, 1).reshape(n, -1)
        x = _layer_norm(a["LayerNorm"], x + drop(_affine(a["output"], context), site + 2, rate), eps)
        z = _affine(p["intermediate"], x)
        z = z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2
        x = _layer_norm(p["LayerNorm"], x + drop(_affine(p["output"], z), site + 3, rate), eps)
    pooled = np.tanh(_affine(params["pooler"], x[:1]))
    return _affine(params["classifier"], drop(pooled, 4, model.head_dropout))[0]


def all_reference_logits(params: Any, model: ModelConfig, tokens: TokenArrays, address: Any = None) -> np.ndarray:
    """`reference_logits` of every example, [n, C]; `address` is (seed, step) where there is dropout."""
    rows = []
    for i, example in enumerate(tokens.example_ids):
        span = slice(tokens.offsets[i], tokens.offsets[i + 1])
        masks = None if address is None else Masks(*address, int(example))
        rows.append(reference_logits(params, model, tokens.input_ids[span], tokens.token_type_ids[span], masks))
    return np.stack(rows)


def by_example(values: np.ndarray, batch: Batch, example_ids: np.ndarray) -> np.ndarray:
    """Slot values [..., R, S, ...] -> [n, ...] in the order of `example_ids` [n]; each must be there once."""
    real = batch.weights > 0
    found = dict(zip(batch.example_ids[real].tolist(), values.reshape(*real.shape, -1)[real], strict=True))
    assert len(found) == real.sum() == len(example_ids)
    return np.stack([found[int(example)] for example in example_ids])
