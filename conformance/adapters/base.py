"""A base class for adapters: names and layouts of a checkpoint, clean rows, one build for each case, copies on devices.

An adapter on this base has a table of names and four short methods; `examples/` has some. See `../docs/extend.md`.
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..adapter import Arrays, Case, HostBatch, StepResult, shapes
from .costs import costs_of

Rows = dict[str, npt.NDArray[Any]]

# The last component of a leaf's name in Flax, Equinox or PyTorch -> its name in a checkpoint.
ENDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "weight": "weight", "bias": "bias"}
# Flax NNX adds a component for a variable's value.
VALUES = ("value", "raw_value")
# The most builds that are kept: a run at `full` has fewer cases and device counts than that at any one time.
MOST_BUILDS = 32
# The columns that an evaluation does not need.
TARGETS = ("labels", "one_hot", "weights", "example_ids")
_builds: dict[tuple[Any, ...], Any] = {}


class Adapter(abc.ABC):
    """The adapter of a trainer whose parameters are a pytree of JAX, or a dict of arrays.

    A subclass sets `name`, `capabilities`, and `names`, where its names are not those of a checkpoint. It implements
    `build`, `begin`, `update` and `logits`; also `tree` and `optimizer` if its `state` has no `params` and `opt_state`,
    which `moments` needs. `gradient` is for the capability `gradients`, and `call` for `program`, `lowering` and
    `costs`; `replicas` needs nothing.

    Attributes:
        columns: the trainer's name of a column -> its name in `HostBatch`, or `one_hot`: the labels as vectors [B, C];
            `rows` has these columns.
        pmapped: whether `rows` has a leading axis of devices, and the logits too.
        scores: whether the evaluation takes labels, for a score; they are 0 then. Otherwise it gets none.
        names: a dotted part of a leaf's path -> what it is in a checkpoint, such as `{"layers": "bert.encoder.layer"}`.
            Whole components are replaced, the longest part first. The last component becomes `weight` or `bias`.
            Leaves that have no name in a checkpoint, such as a dropout rate, are ignored.
        case, n, devices: the current run's case, number of devices, and devices (of JAX, unless `devices_of` differs).
        built: what `build` returned for the case.
        count: the number of updates since `begin`.
    """

    name: str
    capabilities: frozenset[str]
    names: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[Mapping[str, str]] = {
        name: name for name in ("input_ids", "token_type_ids", "attention_mask", "labels")
    }
    pmapped = False
    scores = False
    state: Any

    @abc.abstractmethod
    def build(self, case: Case, devices: Sequence[Any]) -> Any:
        """The model and its compiled functions.

        Called once for each adapter name, case and number of devices; `case.seed` is 0, so that seeds share a build.
        """

    @abc.abstractmethod
    def begin(self, params: Arrays, seed: int) -> None:
        """Begin a run at step 0 from parameters under a checkpoint's names; `to_tree` gives them the trainer's form."""

    @abc.abstractmethod
    def update(self, rows: Rows) -> tuple[Any, Any]:
        """Make one update; returns the loss and the learning rate, as numbers or as one number for each device."""

    @abc.abstractmethod
    def logits(self, rows: Rows) -> Any:
        """Logits of all rows without dropout, [rows, C] or [devices, rows / devices, C]; labels: see `scores`."""

    def tree(self) -> Any:
        """The current parameters in the trainer's form; leaves may have a leading axis of devices with equal copies."""
        return self.state.params

    def gradient(self, rows: Rows) -> Any:
        """The gradients of the mean loss, in the form of `tree`."""
        raise NotImplementedError(f"{type(self).__name__} claims gradients and has no method `gradient`")

    def optimizer(self) -> Any:
        """Optax's state, with a `ScaleByAdamState` in it whose moments have the form of `tree`."""
        return self.state.opt_state

    def call(self, rows: Rows) -> tuple[Any, tuple[Any, ...]]:
        """The jitted or pmapped update, and its arguments for these rows."""
        raise NotImplementedError(f"{type(self).__name__} claims program, lowering or costs and has no method `call`")

    def devices_of(self, n: int) -> Sequence[Any]:
        """The first n devices of JAX."""
        import jax

        return jax.devices()[:n]

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        self.case, self.n, self.count, self.devices = case, n_devices, 0, self.devices_of(n_devices)
        key = (type(self), self.name, dataclasses.replace(case, seed=0), n_devices)
        if key not in _builds:
            while len(_builds) >= MOST_BUILDS:
                _builds.pop(next(iter(_builds)))
            _builds[key] = self.build(key[2], self.devices)
        self.built = _builds[key]
        self.begin({name: np.array(leaf, np.float32) for name, leaf in params.items()}, case.seed)

    def step(self, batch: HostBatch) -> StepResult:
        loss, rate = (float(np.asarray(value).reshape(-1)[0]) for value in self.update(self.rows(batch)))
        self.count += 1
        return StepResult(loss, rate)

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        rows = self.rows(batch)
        targets = [own for own in rows if self.columns[own] in TARGETS]
        rows |= {own: np.zeros_like(rows[own]) for own in targets}
        logits = np.asarray(
            self.logits(rows if self.scores else {own: rows[own] for own in rows if own not in targets})
        )
        return logits.reshape(-1, logits.shape[-1])[: len(batch.weights)]

    def params(self) -> Arrays:
        return self.to_hf(self.tree())

    def gradients(self, batch: HostBatch) -> Arrays:
        return self.to_hf(self.gradient(self.rows(batch)))

    def moments(self) -> tuple[Arrays, Arrays]:
        import optax

        adam = optax.tree_utils.tree_get(self.optimizer(), "ScaleByAdamState")
        return self.to_hf(adam.mu), self.to_hf(adam.nu)

    def replicas(self) -> Sequence[Arrays]:
        tree = self.tree()
        return [self.to_hf(tree, functools.partial(_copy, device)) for device in self.devices]

    def program(self, batch: HostBatch) -> str:
        return str(self._compiled(batch).as_text())

    def lowered(self, batch: HostBatch, platform: str) -> str:
        import jax

        function, arguments = self.call(self.rows(batch))
        # In a `jit` of its own, since a function of pmap cannot be lowered for another platform.
        traced = jax.jit(lambda *arguments: function(*arguments)).trace(*arguments)
        return str(traced.lower(lowering_platforms=(platform,)).as_text())

    def costs(self, batch: HostBatch) -> Mapping[str, float]:
        return costs_of(self._compiled(batch))

    def _compiled(self, batch: HostBatch) -> Any:
        function, arguments = self.call(self.rows(batch))
        return function.lower(*arguments).compile()

    def rows(self, batch: HostBatch) -> Rows:
        """The batch's `columns`, with rows of weight 0 at the end until n divides their number.

        Padding is what a tokenizer writes, token 0 of type 0; a row of weight 0 is that, label 0, and one token that
        attention may see, since a softmax over no token is NaN in most trainers.
        """
        more = -len(batch.weights) % self.n
        rows = {name: np.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1)) for name, leaf in batch._asdict().items()}
        empty = rows["weights"] == 0
        rows["labels"][empty], rows["attention_mask"][empty] = 0, 0
        padding = rows["attention_mask"] == 0
        rows["input_ids"][padding], rows["token_type_ids"][padding] = 0, 0
        rows["attention_mask"][empty, 0] = 1
        if "one_hot" in self.columns.values():
            rows["one_hot"] = np.eye(self.case.num_labels, dtype=np.float32)[rows["labels"]]
        own = {own: rows[name] for own, name in self.columns.items()}
        return {name: leaf.reshape(self.n, -1, *leaf.shape[1:]) for name, leaf in own.items()} if self.pmapped else own

    def replicated(self, tree: Any) -> Any:
        """A pytree with a leading axis of devices and equal copies on them, as `pmap` takes it."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        place = NamedSharding(Mesh(np.array(self.devices), ("devices",)), PartitionSpec("devices"))

        def copies(leaf: Any) -> Any:
            return jax.device_put(np.broadcast_to(leaf, (self.n, *np.shape(leaf))), place)

        return jax.tree.map(copies, tree)

    def to_tree(self, params: Arrays, like: Any) -> Any:
        """Parameters under a checkpoint's names -> the form of `like`; a leaf without such a name keeps its value.

        Raises:
            ValueError: a name of a checkpoint belongs to no leaf, or to several, or a size differs.
        """
        import jax

        names, leaves, form = self._named(like)
        self._check(names, {name: np.shape(leaf) for name, leaf in params.items()})
        filled = [
            _own_layout(params[name], leaf, kernel=kernel) if name in params else leaf
            for (name, kernel), leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(form, filled)

    def to_hf(self, tree: Any, copy: Callable[[Any], Any] = np.asarray) -> Arrays:
        """A tree in the trainer's form -> copies under a checkpoint's names; `copy` brings a leaf to the host.

        Raises:
            ValueError: a name of a checkpoint belongs to no leaf, or to several.
        """
        wanted = shapes(self.case)
        names, leaves, _ = self._named(tree)
        self._check(names, wanted)
        found = {}
        for (name, kernel), leaf in zip(names, leaves, strict=True):
            if name in wanted:
                # The first of the devices' copies, if there are several.
                own = np.asarray(copy(leaf)).reshape(-1, *(wanted[name][::-1] if kernel else wanted[name]))[0]
                found[name] = np.array(own.T if kernel else own)
        return found

    def decays(self, tree: Any, case: Case | None = None) -> Any:
        """The tree with True for each leaf that decays: all that have a checkpoint's name but biases and LayerNorm.

        What `build` returns outlives the run that it was called for, so there the case must be given.
        """
        import jax

        names, _, form = self._named(tree)
        known = shapes(case or self.case)
        return jax.tree.unflatten(
            form, [name in known and not name.endswith((".bias", "LayerNorm.weight")) for name, _ in names]
        )

    def _named(self, tree: Any) -> tuple[list[tuple[str, bool]], list[Any], Any]:
        """Each leaf's name in a checkpoint and whether its layout is (in, out), as Flax's; the leaves; the form."""
        import jax

        paths, form = jax.tree_util.tree_flatten_with_path(tree)
        return [self._name(path) for path, _ in paths], [leaf for _, leaf in paths], form

    def _name(self, path: Sequence[Any]) -> tuple[str, bool]:
        parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
        if parts[-1] in VALUES:
            parts.pop()
        last = parts.pop()
        return f"{renamed('.'.join(parts), self.names)}.{ENDS.get(last, last)}", last == "kernel"

    def _check(self, names: Sequence[tuple[str, bool]], wanted: Mapping[str, Any]) -> None:
        given = [name for name, _ in names]
        for name in wanted:
            if (times := given.count(name)) != 1:
                extra = ", ".join(sorted(set(given) - set(wanted))) or "none"
                raise ValueError(
                    f"{self.name}: {times} leaves are named {name}, must be one; correct `names`; the leaves without a "
                    f"name in a checkpoint: {extra}"
                )


def renamed(path: str, names: Mapping[str, str]) -> str:
    """A dotted path with its parts replaced, the longest part first; see `Adapter.names`."""
    longest = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(rf"(?<![^.])({longest})(?![^.])", lambda match: names[match[1]], path) if names else path


def _own_layout(values: npt.NDArray[Any], leaf: Any, *, kernel: bool) -> npt.NDArray[Any]:
    """A checkpoint's values in the layout of a trainer's leaf; a kernel is (in, out), or has its heads as an axis."""
    return np.ascontiguousarray(values.T if kernel else values).reshape(np.shape(leaf))


def _copy(device: Any, leaf: Any) -> Any:
    """A device's copy of a leaf that is replicated, or has a leading axis of devices."""
    return next(shard.data for shard in leaf.addressable_shards if shard.device == device)
