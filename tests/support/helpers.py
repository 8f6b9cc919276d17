"""Functions that tests share: a tiny BERT, ragged examples, an error as one number, rows at any place of a batch."""

import contextlib
import math
from collections.abc import Iterable
from typing import Any, Literal

import jax
import numpy as np
from flax import traverse_util

from sftref.config import ModelConfig, Precision
from sftref.data.batches import Batch, Layout, pad
from sftref.data.tokens import TokenArrays
from sftref.model.bert import BertForSequenceClassification
from sftref.model.layers import Numerics

VOCABULARY, LENGTH = 50, 16
GARBAGE = 10**6  # a token id outside every embedding table
KEY_BIAS = ("attention", "key", "bias")

Arrangement = Literal["empty", "uneven"]


def precision_scope(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """64-bit types in JAX for float64; nothing for other precisions."""
    if precision != "float64":
        return contextlib.nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()  # for JAX before 0.8


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
    """Random examples of these lengths; example ids are distinct and from all of uint32."""
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
    """`n` examples of 3 to 16 tokens; at least one has 3 and one has 16."""
    lengths = np.random.default_rng([seed, n]).integers(3, LENGTH + 1, n)
    lengths[: min(n, 2)] = (3, LENGTH)[:n]
    return token_arrays(lengths, seed=seed, **kwargs)


def parameters(model: ModelConfig, *, precision: Precision = "float32", seed: int = 0) -> Any:
    """Random NumPy parameters: attention is not uniform, no bias is 0, no LayerNorm scale is 1."""
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
    """The l2 norm of all leaves except the key biases; of the key biases alone (True); of everything (None).

    In exact arithmetic the gradient of a key bias is 0: it adds the same number to all scores of a query, and softmax
    ignores that. The computed gradient is rounding noise, with a relative error of about 1.
    """
    chosen = (a for path, a in leaves(tree).items() if key_biases is None or (path[-3:] == KEY_BIAS) == key_biases)
    return math.sqrt(sum(float(np.sum(np.square(a))) for a in chosen))


def difference(a: Any, b: Any) -> Any:
    """A - b, leaf by leaf, in float64; the trees must be alike."""
    x, y = leaves(a), leaves(b)
    assert {path: leaf.shape for path, leaf in x.items()} == {path: leaf.shape for path, leaf in y.items()}
    return traverse_util.unflatten_dict({path: x[path] - y[path] for path in x})


def relative_error(got: Any, want: Any) -> float:
    """|got - want| / |want|, l2 norms over all leaves except the key biases; infinite if a number is not finite."""
    scale = norm(want)
    assert scale > 0, "nothing to compare with"
    error = norm(difference(got, want)) / scale
    return error if math.isfinite(error) else math.inf


def places(rows: int, layout: Layout, devices: int, arrangement: Arrangement) -> np.ndarray:
    """Places for `rows` occupied rows, int64 [rows] in 0 .. K*R - 1, at random within each device.

    `empty`: the devices are filled one after the other, so that the last of several is empty. `uneven`: each device
    gets one row first, if there are enough, and the rest fill the devices as before.
    """
    k, r = layout.micro, layout.rows
    of_device = np.arange(k * r) % r // (r // devices)
    rng = np.random.default_rng([rows, k, r, devices])
    free = [rng.permutation(np.flatnonzero(of_device == d)).tolist() for d in range(devices)]
    taken = [queue.pop() for queue in free][:rows] if arrangement == "uneven" else []
    taken += [place for queue in free for place in queue][: rows - len(taken)]
    return np.asarray(taken)


def spread(batch: Batch, place: np.ndarray, layout: Layout) -> Batch:
    """The first rows of `batch` [1, R', ...] at `place` in [K, R, ...], and garbage in all other rows."""

    def scatter(name: str, leaf: np.ndarray) -> np.ndarray:
        filler = 0 if name in ("segments", "weights", "starts") else GARBAGE
        out = np.full((layout.micro * layout.rows, *leaf.shape[2:]), filler, leaf.dtype)
        out[place] = leaf[0, : len(place)]
        return out.reshape(layout.micro, layout.rows, *leaf.shape[2:])

    return Batch(**{name: scatter(name, leaf) for name, leaf in batch._asdict().items()})


def by_example(values: np.ndarray, batch: Batch, example_ids: np.ndarray) -> np.ndarray:
    """Slot values [..., R, S, ...] -> [n, ...] in the order of `example_ids` [n], each of which must occur once."""
    real = batch.weights > 0
    values_of = dict(zip(batch.example_ids[real].tolist(), values.reshape(*real.shape, -1)[real], strict=True))
    assert len(values_of) == real.sum() == len(example_ids)
    return np.stack([values_of[int(example)] for example in example_ids])
