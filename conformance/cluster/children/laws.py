"""Laws of rung 9, which include laws of rungs 7 and 8, in a group of hosts on their real devices.

Every member runs each law itself, at the same time as the others: it calls the trainer in step with them, and compares
what it gets with the oracle. Where a law compares processes, they exchange their answers.
"""

import base64
import contextlib
import hashlib
import io
import itertools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # JAX has no public name for the store of joined processes

from ...adapter import StepResult, load_adapter
from ...core.check import Check
from ...core.kit import PACKAGE
from ...core.law import laws, split_id
from ...core.settings import Settings
from ...faults.backend.seeding import patch
from ...faults.trial import run_law
from ...laws.support.compilation import precision
from ...laws.support.guarded import Guarded
from ...laws.support.process_group import Layout
from ...laws.support.rank import Rank
from ...laws.trainer import test_9_processes as nine
from ...oracle.draws import divides
from ...workers.channel import NoAnswer, Worker, importable
from ...workers.serve import packed
from .alone import short
from .member import Member

# Seconds to wait for another process's answer, and for one of the trainer in a process of its own.
ANSWER = 300


class Laws(Member):
    """A member that runs laws, of the machine or of a trainer under test."""

    def __init__(self, members: Sequence[int], number: int, settings: Settings) -> None:
        super().__init__(members, number, settings)
        self.layout = Layout(1, 1)
        self.rank = Rank()
        self.exchanges = itertools.count()

    def law(self, check: str) -> Any:
        """Run one check; returns its result as `alone.short` does."""
        name, subject = split_id(check)
        self.layout = Layout(len(self.members), len(self.devices) // len(self.members))
        instead: dict[str, Any] = {"settings": self.settings, "devices": list(self.devices)}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._instead_of_processes())
            if subject is not None:
                adapter = self.settings.subjects[subject]
                self.rank.subject = Guarded(load_adapter(adapter), adapter)
                own = stack.enter_context(Single(adapter)) if name.id == "processes.data" else self.rank.subject
                instead |= {"subject": own, "adapter": adapter}
            return short(run_law(laws()[name.id], instead, self.settings, subject).to_json())

    @contextlib.contextmanager
    def _instead_of_processes(self) -> Iterator[None]:
        """Let the laws use this group, where they would start processes of this machine."""

        def layouts_of(check: Check, _: Settings) -> list[Layout]:
            # Variants that only one member runs would leave the others waiting.
            check.narrows, check.facts["platform"] = False, jax.default_backend()
            return [self.layout]

        def across(check: Check, subject: Any, _: str, layout: Layout) -> Any:
            check.need_capability("processes", subject.capabilities)
            if not divides(subject, layout.n):
                check.need_capability("padding rows", subject.capabilities)
            return Trainer(self.rank, self)

        with patch(nine, "layouts_of", layouts_of), patch(nine, "across", across), patch(nine, "shared", self._shared):
            yield

    def _shared(self, *_: object, **__: object) -> "Laws":
        return self

    def every(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of `Rank` in all members; returns their answers, in which parameters are digests."""
        own = getattr(self.rank, method)(*arguments)
        text = packed(digests(own) if isinstance(own, Mapping) and method == "call" else own)
        client: Any = global_state.client
        number = next(self.exchanges)
        client.key_value_set(f"sftref/{number}/{self.number}", text)
        texts = [client.blocking_key_value_get(f"sftref/{number}/{k}", 1000 * ANSWER) for k in range(len(self.members))]
        return [Answer.of(text) for text in texts]


class Answer(pickle.Unpickler):
    """Reads an answer of another process, which came over the network: numbers, texts, arrays and `StepResult` only.

    Python's own unpickler would call whatever function the text names
    (https://docs.python.org/3/library/pickle.html#restricting-globals).
    """

    ARRAYS = ("_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer")

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of this name, if an answer may have it."""
        if (module, name) == (StepResult.__module__, StepResult.__qualname__):
            return StepResult
        if module.split(".")[0] == "numpy" and name in self.ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"an answer of another process has {module}.{name}, must have data only")

    @classmethod
    def of(cls, text: str) -> Any:
        """The inverse of `packed`."""
        return cls(io.BytesIO(base64.b64decode(text))).load()


class Trainer:
    """The trainer under test in a group: each call is one of all members."""

    def __init__(self, rank: Rank, ranks: Laws) -> None:
        self.rank, self.ranks = rank, ranks

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.rank.subject, name)
        if not callable(value):
            return value

        def call(*arguments: Any) -> Any:
            if name == "start":
                self.rank.case = arguments[0]
            with precision(self.rank.case):
                return value(*arguments)

        return call


class Single:
    """The trainer under test in a process that joined no other, on one simulated device."""

    def __init__(self, adapter: str) -> None:
        variables = importable() | {"JAX_PLATFORMS": "cpu"}
        self.worker = Worker(f"{PACKAGE}.laws.support.rank:make", 0, variables=variables, alone=True)
        self.trainer = load_adapter(adapter)  # never started: it has the name, the capabilities and fixed values
        self._ask("load", adapter)

    def _ask(self, method: str, *arguments: Any) -> Any:
        answer = self.worker.ask(method, *arguments, seconds=ANSWER)
        if isinstance(answer, NoAnswer):
            raise RuntimeError(f"{method} in a process of its own: {answer.how}")
        return answer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.trainer, name)
        if not callable(value):
            return value
        return lambda *arguments: self._ask("call", name, *arguments)

    def __enter__(self) -> "Single":
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()


def digests(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by name -> their digests [32], which differ where a bit, a dtype or a shape does."""

    def digest(leaf: Any) -> Any:
        array = np.ascontiguousarray(leaf)
        about = f"{array.dtype} {array.shape}".encode()
        return np.frombuffer(hashlib.sha256(about + array.tobytes()).digest(), np.uint8)

    return {name: digest(leaf) for name, leaf in leaves.items()}
