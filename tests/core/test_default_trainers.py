"""The checks of a run: which trainers a release of JAX has, and what of `shard_map` each level checks."""

from pathlib import Path

import pytest
from sftref.conformance.core.law import LEVELS, expected, split_id
from sftref.conformance.core.settings import SHARD_MAP, SHARD_MAP_RUNG, TIMED_ADAPTERS, Settings, default_adapters
from sftref.conformance.workers.plan import command

EVERY = (*TIMED_ADAPTERS, SHARD_MAP)


@pytest.fixture
def all_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftref.conformance.core.settings.DEFAULT_ADAPTERS", EVERY)


@pytest.mark.parametrize("version", ["0.5.3", "0.6.0"])
def test_older_releases_have_no_shard_map(version: str) -> None:
    assert default_adapters(version) == TIMED_ADAPTERS


@pytest.mark.parametrize("version", ["0.6.1", "0.10.2", "0.12.0.1", "0.13.0.dev20261101", None])
def test_newer_releases_have_it_and_so_has_a_missing_jax(version: str | None) -> None:
    assert default_adapters(version) == EVERY


@pytest.mark.usefixtures("all_four")
@pytest.mark.parametrize("level", LEVELS)
def test_below_full_the_default_run_checks_shard_map_on_several_devices_only(level: str) -> None:
    settings = Settings(level=level, adapters=EVERY, processes=2)
    checks = settings.checks()
    others = [check for check in checks if split_id(check)[1] != "shard_map"]
    assert others == expected(level, ["single", "pmap", "mesh"], processes=2)
    rungs = {law.rung_name for law, subject in map(split_id, checks) if subject == "shard_map"}
    every = {law.rung_name for law, subject in map(split_id, checks) if subject == "mesh"}
    assert rungs == (every if level == "full" else {SHARD_MAP_RUNG})
    assert len(every) > 1


@pytest.mark.usefixtures("all_four")
def test_a_trainer_that_is_named_has_all_checks() -> None:
    for adapters in ((SHARD_MAP,), EVERY):
        settings = Settings(level="quick", adapters=adapters, named=True)
        assert settings.checks() == expected("quick", settings.subjects)
        assert SHARD_MAP in settings.timed.values()
        given = command(settings, ["step.weights[shard_map]"], "", None, Path("scratch"))
        assert f"--sftref-adapter={SHARD_MAP}" in given, "its process has these checks too"


@pytest.mark.usefixtures("all_four")
def test_only_and_processes_replace_those_of_the_run() -> None:
    settings = Settings(level="quick", adapters=EVERY, only=("training",))
    assert settings.checks(["step.weights"]) == [f"step.weights[{name}]" for name in ("single", "pmap", "mesh")]
    assert settings.checks(["processes.devices"]) == []
    assert settings.checks(["processes.devices"], processes=2) == ["processes.devices"]
    assert list(settings.timed) == ["single", "pmap", "mesh"]
