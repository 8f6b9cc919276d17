"""Fault id -> how it is seeded: by a wrong lowering, function or trainer, or by changed results of programs."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import jax

from .executables import Change, results_changed
from .lowering import Wrong, replaced

# Name of a fixture of a law -> its value while a fault is seeded.
Fixtures = dict[str, Any]
Trainer = TypeVar("Trainer")


class SeededFaults(dict[str, Callable[[], AbstractContextManager[Fixtures | None]]]):
    """The faults of one module, by id. Each decorator adds one."""

    def seed(self, fault: str) -> AbstractContextManager[Fixtures | None]:
        """Seed one fault inside the `with` block; gives the fixtures that it replaces."""
        return self[fault]()

    def seeded_ids(self) -> list[str]:
        """The ids of all faults of the module."""
        return list(self)

    def lowered(self, fault: str, *primitives: Any) -> Callable[[Wrong], Wrong]:
        """Compile the decorated function for the primitives; see `lowering.replaced`."""

        @contextlib.contextmanager
        def seed(wrong: Wrong) -> Iterator[None]:
            with ExitStack() as stack:
                for primitive in primitives:
                    stack.enter_context(replaced(primitive, wrong))
                yield

        def add(wrong: Wrong) -> Wrong:
            self[fault] = functools.partial(seed, wrong)
            return wrong

        return add

    def patched(self, fault: str, owner: Any, name: str) -> Callable[[Wrong], Wrong]:
        """Replace the function or method `owner.name` by the decorated one, whose first argument is the right one."""

        def add(wrong: Wrong) -> Wrong:
            right = getattr(owner, name)
            # A function, where a `functools.partial` would not become a method.
            self[fault] = lambda: patch(owner, name, lambda *values, **options: wrong(right, *values, **options))
            return wrong

        return add

    def changed(self, fault: str) -> Callable[[Callable[[], Change]], Callable[[], Change]]:
        """Change the results of programs by what the decorated function returns; see `executables.results_changed`."""

        def add(make: Callable[[], Change]) -> Callable[[], Change]:
            self[fault] = lambda: results_changed(make())
            return make

        return add

    def context(self, fault: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """Seed the fault by the decorated generator, which yields the fixtures that it replaces."""

        def add(seed: Callable[[], Iterator[Fixtures | None]]) -> Callable[[], Iterator[Fixtures | None]]:
            self[fault] = contextlib.contextmanager(seed)
            return seed

        return add


class WrongTrainers(dict[str, type[Trainer]]):
    """The wrong trainers of one module, by fault id: `@wrong("id")` adds one.

    Args:
        right: the right trainer, of which the wrong ones are subclasses.
        family: the first word of their names.
    """

    def __init__(self, right: type[Trainer], family: str) -> None:
        super().__init__()
        self.right, self.family = right, family

    def __call__(self, fault: str) -> Callable[[type[Trainer]], type[Trainer]]:
        """Add the decorated trainer, which has the fault."""

        def add(trainer: type[Trainer]) -> type[Trainer]:
            trainer.name = f"{self.family} ({fault})"  # type: ignore[attr-defined]
            self[fault] = trainer
            return trainer

        return add

    def method(self, fault: str, name: str, wrong: Wrong) -> None:
        """Add a trainer with one wrong method: (the right method, the trainer, *arguments) -> its result."""
        right = getattr(self.right, name)
        self(fault)(type(fault, (self.right,), {name: lambda self, *arguments: wrong(right, self, *arguments)}))

    def factory(self, name: str) -> type[Trainer]:
        """The trainer of a fault by its Python name, `mean_of_means`: for the `__getattr__` of a module.

        Raises:
            AttributeError: no trainer here has such a fault.
        """
        fault = name.replace("_", "-")
        if fault not in self:
            raise AttributeError(f"{name} is not a seeded fault of a {self.family} trainer")
        return self[fault]


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


@contextlib.contextmanager
def fresh_programs() -> Iterator[None]:
    """Have JAX compile all programs again inside the `with` block, and again after it."""
    jax.clear_caches()
    try:
        yield
    finally:
        jax.clear_caches()


def primitives(module: Any, *names: str) -> Sequence[Any]:
    """The primitives of a module that this release of JAX has."""
    return [getattr(module, name) for name in names if hasattr(module, name)]
