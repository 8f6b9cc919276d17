"""Id -> how a fault is seeded: by a wrong lowering, a wrong function in place of the right one, or wrong results."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from .executables import Change, results_changed
from .lowering import Wrong, replaced

Instead = dict[str, Any]


class SeededFaults(dict[str, Callable[[], AbstractContextManager[Instead | None]]]):
    """The faults of one module, by id. Each decorator adds one."""

    def seed(self, fault: str) -> AbstractContextManager[Instead | None]:
        """Seed one; gives what laws get in place of their fixtures."""
        return self[fault]()

    def seeded_ids(self) -> list[str]:
        """The ids of all."""
        return list(self)

    def lowered(self, fault: str, *primitives: Any) -> Callable[[Wrong], Wrong]:
        """The decorated function is compiled for the primitives; see `lowering.replaced`."""

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
        """The decorated function, whose first argument is the right one, takes the place of `owner.name`."""

        def add(wrong: Wrong) -> Wrong:
            self[fault] = lambda: patch(owner, name, functools.partial(wrong, getattr(owner, name)))
            return wrong

        return add

    def ran(self, fault: str) -> Callable[[Callable[[], Change]], Callable[[], Change]]:
        """The decorated function makes what changes the results of programs; see `executables.results_changed`."""

        def add(make: Callable[[], Change]) -> Callable[[], Change]:
            self[fault] = lambda: results_changed(make())
            return make

        return add

    def given(self, fault: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        """The decorated generator seeds by itself, and yields what laws get in place of their fixtures."""

        def add(seed: Callable[[], Iterator[Instead | None]]) -> Callable[[], Iterator[Instead | None]]:
            self[fault] = contextlib.contextmanager(seed)
            return seed

        return add


@contextlib.contextmanager
def patch(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute replaced, and put back."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def primitives(module: Any, *names: str) -> Sequence[Any]:
    """Those of a module's primitives that this JAX has."""
    return [getattr(module, name) for name in names if hasattr(module, name)]
