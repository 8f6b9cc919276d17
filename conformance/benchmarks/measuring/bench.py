"""One benchmark, and what all benchmarks of a process share: devices, model sizes, trainers, drawn values."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ...adapter import Case, HostBatch, TrainerUnderTest, fixed_of, load_adapter
from ...core.settings import Settings, start_jax
from ...machine import snapshot
from ...oracle.cases import MAIN, NO_DROPOUT, start_params
from ...oracle.draws import batch_of
from ...oracle.tape import Params
from .timing import Prepared

# Name of a size -> (model, rows, tokens). A step of `small` takes tens of milliseconds on two CPU cores; `base` is
# bert-base with texts of GLUE's length, 32 for each of 8 devices.
SMALL = replace(
    MAIN, vocab_size=2_000, hidden_size=128, num_attention_heads=2, intermediate_size=512, max_position_embeddings=32,
)  # fmt: skip
BASE = replace(
    MAIN, vocab_size=30_522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3_072,
    max_position_embeddings=128,
)  # fmt: skip
SIZES: dict[str, tuple[Case, int, int]] = {"small": (SMALL, 32, 32), "base": (BASE, 256, 128)}
# Steps of a run whose learning rate never reaches 0.
ENDLESS = 1_000_000


def find_devices(settings: Settings) -> list[Any]:
    """Start JAX, and return the devices to time; ValueError if JAX does not have the requested platform."""
    start_jax(settings)
    try:
        devices = jax.devices()[: settings.devices]
        platforms = snapshot.live(settings.devices)["platforms"]
    except RuntimeError as error:
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"--platform = {settings.platform}: not available ({message}); install its plugin") from error
    if settings.platform is not None and settings.platform not in platforms:
        raise ValueError(
            f"--platform = {settings.platform}, but JAX uses {' or '.join(platforms)}; install the plugin of "
            f"{settings.platform}, or omit --platform"
        )
    return devices


class Bench:
    """Devices, sizes, trainers (label -> `MODULE:FACTORY`), and drawn values of all benchmarks of a process.

    `size` is one of `SIZES`, or None for `small` on a CPU and `base` on other devices.
    """

    def __init__(self, devices: Sequence[Any], subjects: Mapping[str, str], size: str | None, seed: int) -> None:
        self.devices, self.subjects, self.seed = list(devices), dict(subjects), seed
        self.size = size or ("small" if devices[0].platform == "cpu" else "base")
        self.model, self.rows, self.tokens = SIZES[self.size]

    def rng(self, name: str) -> np.random.Generator:
        """The generator of a benchmark's values."""
        return np.random.default_rng((zlib.crc32(name.encode()), self.seed))

    @functools.cache  # noqa: B019 - a process has only one Bench
    def trainer(self, label: str) -> TrainerUnderTest:
        """The trainer of that label."""
        return load_adapter(self.subjects[label])

    def case(self, label: str) -> Case:
        """The case of a trainer: with dropout, weights and padding rows if claimed, and its fixed constants."""
        trainer = self.trainer(label)
        claims = trainer.capabilities
        changes: dict[str, Any] = {} if "dropout" in claims else dict(NO_DROPOUT)
        changes |= {"weighted": "weights" in claims, "padding_rows": "padding rows" in claims} | dict(fixed_of(trainer))
        case = replace(self.model, seed=self.seed, total_steps=ENDLESS, max_position_embeddings=self.tokens)
        return replace(case, **changes)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def params(self, label: str) -> Params:
        """Parameters of the model of this size, for a trainer."""
        return start_params(self.case(label), self.rng("parameters"))

    def batch(self, case: Case, rows: int) -> HostBatch:
        """Examples of different lengths, all with weight."""
        return batch_of(case, self.rng("batch"), rows=rows, longest=case.max_position_embeddings)

    def widest(self, label: str) -> int:
        """The largest number of devices that a trainer can use."""
        return len(self.devices) if "devices" in self.trainer(label).capabilities else 1


@dataclass(frozen=True)
class Benchmark:
    """One thing to time."""

    id: str  # stable; stored runs contain it
    group: str  # the group of pytest-benchmark's table
    kernel: str  # the name of its calibration kernel
    level: str  # the lowest level that times it
    build: Callable[[Bench], Prepared]  # compiles and checks the work
    scatter: float = 0.0  # a known lower bound of the relative scatter of its time between processes
