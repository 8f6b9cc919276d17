"""What a run's processes are given: which checks share one, their variables, and how their programs are compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
from sftref.conformance.plan import unoptimized, variables
from sftref.conformance.settings import Settings

FLAG = "--xla_backend_optimization_level=0"


@pytest.mark.parametrize(
    ("level", "simulated", "ids", "light"),
    [
        ("quick", True, ["step.update[mesh]", "training.decay[mesh]"], True),
        ("quick", True, ["operators.gelu"], False),
        ("quick", False, ["step.update[mesh]"], False),
        ("standard", True, ["step.update[mesh]"], False),
    ],
)
def test_only_trainers_on_simulated_devices_are_compiled_lightly(
    level: str, simulated: bool, ids: list[str], light: bool
) -> None:
    assert unoptimized(Settings(level=level), simulated, ids) is light


def test_the_flags_of_the_user_stay() -> None:
    assert variables({}, None)["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert "XLA_FLAGS" not in variables({}, Path("cache"))
    assert variables({}, Path("cache"), light=True)["XLA_FLAGS"] == FLAG
    assert variables({"XLA_FLAGS": "--a=1"}, Path("cache"), light=True)["XLA_FLAGS"] == f"--a=1 {FLAG}"
    own = "--xla_backend_optimization_level=3"
    assert variables({"XLA_FLAGS": own}, Path("cache"), light=True)["XLA_FLAGS"] == own
