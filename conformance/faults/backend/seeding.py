"""Fault id -> how it is seeded: by a wrong lowering, function or trainer, or by changed results of programs."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import jax

from ...core.settings import SIMULATED_DEVICES
from .executables import results_changed
from .lowering import Wrong, replaced

# Name of a fixture of a law -> its value while a fault is seeded.
Fixtures = dict[str, Any]
Seed = Callable[[], AbstractContextManager[Fixtures | None]]
Decorator = Callable[[Any], Any]


class SeededFaults(dict[str, Seed | type[Any]]):
    """The faults of one module, by id: what seeds each, or the wrong trainer. Each decorator adds one.

    Args:
        right: the right trainer, of which the wrong ones are subclasses.
    """

    def __init__(self, right: Any = None) -> None:
        super().__init__()
        self.right = right

    def seed(self, fault: str) -> AbstractContextManager[Fixtures | None]:
        """Seed one fault inside the `with` block; gives the fixtures that it replaces."""
        wrong = self[fault]
        if not isinstance(wrong, type):
            return wrong()
        fixtures = {"subject": wrong(), "against": self.right()}
        # A trainer that only adds up shards runs on any number of "devices": laws get numbers instead of JAX's devices.
        devices = {} if "jax" in fixtures["subject"].capabilities else {"devices": list(range(SIMULATED_DEVICES))}
        return contextlib.nullcontext(fixtures | devices)

    def lowered(self, fault: str, *primitives: Any) -> Decorator:
        """Compile the decorated function for the primitives; see `lowering.replaced`."""
        return self._add(fault, lambda wrong: lambda: _all_replaced(primitives, wrong))

    def patched(self, fault: str, owner: Any, name: str) -> Decorator:
        """Replace the function or method `owner.name` by the decorated one, whose first argument is the right one.

        Args:
            fault: its id.
            owner: a class, a module, or the name of a module, which is imported when the fault is seeded.
            name: of the function.
        """

        def seed(wrong: Wrong) -> AbstractContextManager[None]:
            place = importlib.import_module(owner) if isinstance(owner, str) else owner
            right = getattr(place, name)
            # A function, where a `functools.partial` would not become a method.
            return patch(place, name, lambda *values, **options: wrong(right, *values, **options))

        return self._add(fault, lambda wrong: lambda: seed(wrong))

    def changed(self, fault: str) -> Decorator:
        """Change the results of programs by the decorated function; see `executables.results_changed`.

        Its first argument is a dict, empty when the fault is seeded, for what it keeps from call to call.
        """
        return self._add(fault, lambda change: lambda: results_changed(functools.partial(change, {})))

    def context(self, fault: str) -> Decorator:
        """Seed the fault by the decorated generator, which yields the fixtures that it replaces."""
        return self._add(fault, contextlib.contextmanager)

    def fixtures(self, fault: str) -> Decorator:
        """Replace the fixtures that the decorated function returns."""
        return self._add(fault, lambda values: lambda: contextlib.nullcontext(values()))

    def trainer(self, fault: str) -> Decorator:
        """Add the decorated trainer, which has the fault."""
        return self._add(fault, functools.partial(self._named, fault))

    def method(self, fault: str, name: str) -> Decorator:
        """Add a trainer with one wrong method, the decorated (right method, trainer, *arguments) -> its result."""
        right = getattr(self.right, name)

        def trainer(wrong: Wrong) -> type[Any]:
            methods = {name: lambda self, *arguments: wrong(right, self, *arguments)}
            return self._named(fault, type(fault, (self.right,), methods))

        return self._add(fault, trainer)

    def _named(self, fault: str, trainer: type[Any]) -> type[Any]:
        trainer.name = f"{self.right.name.split()[0]} ({fault})"
        return trainer

    def factory(self, name: str) -> type[Any]:
        """The trainer of a fault by its Python name, `mean_of_means`: for the `__getattr__` of a module.

        Raises:
            AttributeError: no trainer here has such a fault.
        """
        trainer = self.get(name.replace("_", "-"))
        if not isinstance(trainer, type):
            raise AttributeError(f"{name} is not a seeded fault of a {self.right.name.split()[0]} trainer")
        return trainer

    def _add(self, fault: str, seed: Callable[[Any], Any]) -> Decorator:
        def add(wrong: Any) -> Any:
            self[fault] = seed(wrong)
            return wrong

        return add


@contextlib.contextmanager
def _all_replaced(primitives: tuple[Any, ...], wrong: Wrong) -> Iterator[None]:
    with ExitStack() as stack:
        for primitive in primitives:
            stack.enter_context(replaced(primitive, wrong))
        yield


@contextlib.contextmanager
def patch(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute inside the `with` block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def option(name: str, value: Any) -> Iterator[None]:
    """Set an option of `jax.config` inside the `with` block."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)
