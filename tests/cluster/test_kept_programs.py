"""The cache of compiled programs of `sftref train`: when it is used, what it reuses, and what it leaves as it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from sftref.cluster import programs

pytestmark = pytest.mark.jax

OPTIONS = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def _enabled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The other tests run with JAX's cache switched off; programs of any compile time are kept."""
    monkeypatch.setattr(programs, "LEAST_SECONDS", 0.0)
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", True)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def compile_one() -> float:
    """A program that no other test compiles."""
    jax.clear_caches()
    return float(jax.jit(lambda x: x * 1234.5 + 6.75)(2.0))


def test_a_later_run_reads_what_an_earlier_one_compiled(tmp_path: Path) -> None:
    """The same result from the same files, and JAX's options as before."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
    results, files = [], []
    for _ in range(2):
        with programs.kept(tmp_path):
            results.append(compile_one())
        files.append(sorted(path.name for path in programs.folder(tmp_path).glob("*-cache")))
        assert {name: jax.config.values[name] for name in OPTIONS} == before
    assert results == [2475.75] * 2
    assert files[0] == files[1] != []
    assert hits, "the second block must have read the program of the first"


def test_what_a_killed_run_left_is_deleted(tmp_path: Path) -> None:
    """A program is whole once the time of its last use is written."""
    where = programs.folder(tmp_path)
    where.mkdir(parents=True)
    for name in ("whole-cache", "whole-atime", "half-cache"):
        (where / name).write_bytes(b"12345678")
    with programs.kept(tmp_path):
        assert sorted(path.name for path in where.glob("[wh]*")) == ["whole-atime", "whole-cache"]


def test_another_processor_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program can have instructions that another processor lacks."""
    folders = set()
    for flags in ("sse avx", "sse avx avx512f"):
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        monkeypatch.setattr(programs, "CPU", tmp_path / "cpuinfo")
        folders.add(programs.folder(tmp_path))
    assert len(folders) == 2


@pytest.mark.parametrize("why", ["no folder", "own folder", "disabled", "old JAX", "no filelock", "not writable"])
def test_not_used(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Nothing is written, JAX's options stay, and the block runs."""
    cache: Path | None = tmp_path
    own = str(tmp_path / "own") if why == "own folder" else None
    if why == "no folder":
        cache = None
    elif why == "own folder":
        jax.config.update("jax_compilation_cache_dir", own)
    elif why == "disabled":
        jax.config.update("jax_enable_compilation_cache", False)
    elif why == "old JAX":
        monkeypatch.setattr(programs, "SINCE", (99,))
    elif why == "no filelock":
        monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: None)
    else:
        (tmp_path / "programs").write_text("a file")
    try:
        with programs.kept(cache):
            assert jax.config.values["jax_compilation_cache_dir"] == own
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not programs.folder(tmp_path).exists()
    assert ("cannot be written" in caplog.text) == (why == "not writable")
