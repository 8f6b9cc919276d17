"""An adapter of a training function as it is: the order in which it takes and gives what its loop keeps."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..adapter import Arrays, Case
from .base import Adapter, Rows
from .template import optimizer_of


class Functions(NamedTuple):
    """What `Loop.build` returns.

    Attributes:
        kept: the first values of what the loop keeps, by name: `state`, or `model`; for `NnxLoop`, `model` and
            `optimizer`.
        train: the training function, jitted or pmapped.
        evaluate: the evaluation function.
        tx: optax's optimizer, where the loop keeps a `model` that is a pytree.
        batch: the columns of a batch -> the batch as the functions take it, if it is another; an evaluation has no
            labels, unless the adapter has `scores`.
    """

    kept: dict[str, Any]
    train: Callable[..., Any]
    evaluate: Callable[..., Any]
    tx: Any = None
    batch: Callable[[Rows], Any] = dict


class Loop(Adapter):
    """The adapter of a loop that calls one training function. A subclass implements `build`, which returns `Functions`.

    `takes`, `gives` and `evaluates` have the names of the arguments and results of the two functions, in their order:

    - `rows`: the batch; with `sharded`, its rows are sharded over a mesh of the devices, for functions of `jit`;
    - `state`: Flax's TrainState, or another object with `params`, `opt_state`, `tx` and `replace`;
    - `model` and `optimizer`: a pytree of parameters and optax's state, or Flax NNX's Module and Optimizer;
    - `key`, of the run's seed, and `keys`, one for each device;
    - `loss`; `losses`, whose sum is the loss; or `metrics` with `loss` and `learning_rate`. Without `metrics`, the
      learning rate is the case's.
    """

    takes: ClassVar[tuple[str, ...]] = ("state", "rows", "keys")
    gives: ClassVar[tuple[str, ...]] = ("state", "metrics", "keys")
    evaluates: ClassVar[tuple[str, ...]] = ("state", "rows")
    sharded = False

    def adamw(self, case: Case) -> Any:
        """AdamW of a case, with its decay mask, clipping and schedule; it sees only the leaves that are floats."""
        import jax
        import optax

        def floats(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf if jax.numpy.issubdtype(leaf.dtype, np.inexact) else None, tree)

        own = optimizer_of(case, functools.partial(self.decays, case=case))[0]
        return optax.GradientTransformation(
            lambda model: own.init(floats(model)),
            lambda gradients, state, model: own.update(gradients, state, floats(model)),
        )

    def begin(self, params: Arrays, seed: int) -> None:
        import jax

        self.kept = dict(self.built.kept)
        key = jax.random.PRNGKey(seed)
        if "state" in self.kept:
            state = self.kept["state"]
            tree = self.to_tree(params, state.params)
            self.kept["state"] = state.replace(params=tree, opt_state=state.tx.init(tree))
        else:
            # Dropout rates and flags too, which a replicated model has as arrays.
            model = jax.tree.map(jax.numpy.asarray, self.to_tree(params, self.kept["model"]))
            self.kept |= {"model": model, "optimizer": self.built.tx.init(model)}
        self.kept["key"] = key
        if self.pmapped:
            self.kept = self.replicated(self.kept)
        self.kept["keys"] = jax.random.split(key, self.n)

    def call(self, rows: Rows) -> tuple[Any, tuple[Any, ...]]:
        return self.built.train, self._arguments(self.takes, rows)

    def update(self, rows: Rows) -> tuple[Any, Any]:
        function, arguments = self.call(rows)
        results = function(*arguments)
        named = dict(zip(self.gives, results if len(self.gives) > 1 else (results,), strict=True))
        self.kept |= {name: result for name, result in named.items() if name in self.kept}
        if "metrics" in named:
            return named["metrics"]["loss"], named["metrics"]["learning_rate"]
        loss = named["loss"] if "loss" in named else named["losses"].sum()
        return loss, rate_of(self.case)(self.count)

    def logits(self, rows: Rows) -> Any:
        return self.built.evaluate(*self._arguments(self.evaluates, rows))

    def tree(self) -> Any:
        return self.kept["state"].params if "state" in self.kept else self.kept["model"]

    def optimizer(self) -> Any:
        return self.kept["state"].opt_state if "state" in self.kept else self.kept["optimizer"]

    def _arguments(self, names: tuple[str, ...], rows: Rows) -> tuple[Any, ...]:
        batch = self.built.batch(rows)
        return tuple(self.placed(batch) if name == "rows" else self.kept[name] for name in names)

    def placed(self, batch: Any) -> Any:
        """A batch with its rows sharded over the devices, if the loop has `sharded`."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(self.devices), ("data",))
        return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))) if self.sharded else batch


class NnxLoop(Loop):
    """The adapter of a loop on Flax NNX's Module and Optimizer, which the training function changes in place."""

    takes: ClassVar = ("model", "optimizer", "rows")
    gives: ClassVar[tuple[str, ...]] = ("loss",)
    evaluates: ClassVar[tuple[str, ...]] = ("model", "rows")
    sharded = True

    def begin(self, params: Arrays, seed: int) -> None:
        from flax import nnx

        self.kept = self.built.kept
        self.kept.setdefault("first", nnx.state(self.kept["optimizer"]))
        nnx.update(self.kept["optimizer"], self.kept["first"])
        nnx.update(self.kept["model"], self.to_tree(params, self.tree()))

    def tree(self) -> Any:
        from flax import nnx

        return nnx.state(self.kept["model"], nnx.Param)

    def optimizer(self) -> Any:
        return self.kept["optimizer"].opt_state


def rate_of(case: Case) -> Callable[[Any], Any]:
    """The learning rate of a case, as a function of the number of updates before."""
    return optimizer_of(case, None)[1]


class Recorder:
    """Stands for NNX's metrics in an evaluation: each of its methods keeps the values that it gets."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __getattr__(self, method: str) -> Callable[..., None]:
        return lambda **values: self.values.update(values)


def recorded(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """An evaluation of (model, metrics, batch) that updates the metrics -> one of (model, batch) that gives its logits.

    It gives what the metrics get as `logits`; `nnx.jit` can compile it.
    """

    def logits(model: Any, batch: Any) -> Any:
        metrics = Recorder()
        evaluate(model, metrics, batch)
        return metrics.values["logits"]

    return logits
