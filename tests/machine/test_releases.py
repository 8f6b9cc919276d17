"""The table of real releases: combinations of real packages with their truth, and the table against the index."""

import random
import tomllib
import urllib.error
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from sftref.conformance.machine import releases
from sftref.conformance.machine.findings import least_jaxlib
from sftref.conformance.machine.releases import Rules, extra, install, read_rules, release, rules, table
from sftref.conformance.machine.versions import BROKEN, LEVELS, conflicts
from sftref.conformance.workers.plan import KIT


def installed(jax: str, jaxlib: str = "", python: str = "3.12", **packages: str) -> dict[str, str]:
    """Versions by name; `rocm7="0.12.0"` are both halves of a plugin, `rocm7_plugin="0.12.0"` is one."""
    versions = {"jax": jax, "jaxlib": jaxlib or jax, "python": python}
    for name, number in packages.items():
        if name.startswith(("rocm", "cuda")):
            halves = ("plugin", "pjrt") if "_" not in name else (name.split("_")[1],)
            versions |= {f"jax-{name.split('_')[0]}-{half}": number for half in halves}
        else:
            versions[name.replace("_", "-")] = number
    return versions


def grade(versions: dict[str, str]) -> str | None:
    """The worst level of the conflicts; None if there are none."""
    found = [each.level for each in conflicts(versions, least_jaxlib(versions["jax"]))]
    return min(found, key=LEVELS.index, default=None)


# (versions, grade, truth): by hand, from the metadata, from jaxlib's files and from public reports.
BY_HAND: list[tuple[dict[str, str], str | None, str]] = [
    (installed("0.5.0", rocm60="0.5.0"), None, "AMD's own set for ROCm 6"),
    (installed("0.5.2", "0.5.1", rocm60="0.5.0"), "note", "jax-ml/jax PR 26975: 0.5.0 goes with 0.5.0 to 0.5.2"),
    (installed("0.6.2", rocm7="0.6.0"), "risk", "ROCm/rocm-jax PR 130: loads"),
    (installed("0.5.1", rocm7="0.6.0"), "broken", "jaxlib 0.5.1 knows rocm60 only"),
    (installed("0.7.1", rocm7="0.7.1"), None, "ROCm's page for Radeon boards"),
    (installed("0.7.0", rocm7="0.6.0"), "broken", "jaxlib knows rocm7 from 0.7.1 on"),
    (installed("0.9.0.1", rocm7="0.9.0"), "risk", "the only plugin that there is; jaxlib 0.9.0.1 skips its kernels"),
    (installed("0.9.1", rocm7="0.9.1.post6"), None, "a post release of the same release"),
    (installed("0.10.2", rocm7="0.10.2+rocm7.13.0a20260415"), None, "a wheel of TheRock"),
    (installed("0.10.2", rocm10="0.10.2+rocm10.0.0"), "broken", "ROCm/jax PR 823: devices without kernels"),
    (installed("0.11.1", rocm10="0.11.1"), None, "jaxlib 0.11.1 knows rocm10"),
    (installed("0.12.0.1", rocm7="0.12.0"), "note", "nothing newer exists; loads"),
    (installed("0.12.0.1", rocm7="0.11.2"), "risk", "0.12.0 is nearer"),
    (installed("0.10.2", rocm7="0.12.0"), "risk", "newer than jax"),
    (installed("0.10.2", cuda13_plugin="0.10.2"), "broken", "no entry point: CPU only"),
    (installed("0.10.2", cuda13_pjrt="0.10.2"), "broken", "devices without kernels"),
    (installed("0.12.0.1", cuda13="0.12.0"), "broken", "jaxlib compares releases of CUDA plugins"),
    (installed("0.10.2", "0.10.1", cuda12="0.10.1"), None, "jax accepts this jaxlib, which accepts its plugin"),
    (installed("0.10.2", libtpu="0.0.30"), "risk", "jax 0.10.2 requires libtpu 0.0.42.*"),
    (installed("0.10.2", libtpu="0.0.42.1"), None, "the libtpu of its extra"),
    (installed("0.5.0", libtpu="0.0.8", libtpu_nightly="0.1.dev20241010+nightly.cleanup"), None, "its extra's pair"),
    (installed("0.12.0", libtpu="0.0.50", libtpu_nightly="0.1.dev20260801"), "risk", "maxdiffusion PR 471"),
    (installed("0.5.2", "0.5.1", libtpu="0.0.9"), "risk", "jax-ml/jax#29989: the libtpu of another package"),
    (installed("0.12.0.1", "0.8.3"), "broken", "jax refuses a jaxlib that is too old"),
    (installed("0.10.2", "0.11.0"), "broken", "jax refuses a jaxlib that is newer"),
    (installed("0.13.0", rocm11="0.13.0"), None, "an unknown release is never broken on a guess"),
    (installed("0.13.0", cuda14="0.13.0"), None, "an unknown release is never broken on a guess"),
    (installed("0.13.0", cuda13="0.12.0"), "broken", "jaxlib's rule for CUDA holds since 0.5.3"),
    (installed("0.12.0.1", oneapi_plugin="0.12.0.1"), None, "no rule is known for it"),
]  # fmt: skip


def drawn() -> list[tuple[dict[str, str], str | None, str]]:
    """Thirty combinations of releases that exist, by a seed, with the grade that jaxlib's own files give them.

    The truth does not go through `versions.py`: it compares numbers as `plugin_support.py` of that release does.
    """
    rng = random.Random(20261129)
    rows: list[tuple[dict[str, str], str | None, str]] = []
    known = [each for each in table()["jaxlib"] if each in table()["jax"]]
    while len(rows) < 30:
        jaxlib, family = rng.choice(known), rng.choice(list(table()["plugins"]))
        both = [each for each, (day, _, pjrt) in table()["plugins"][family].items() if day and pjrt]
        # Half of them near each other, as after an upgrade of one package.
        near = sorted(both, key=lambda each: abs(known.index(each) - known.index(jaxlib)) if each in known else 99)
        plugin = rng.choice(near[:2] if rng.random() < 0.5 else both)
        since = [row for row in table()["rules"] if release(row["since"]) <= release(jaxlib)][-1]
        one, other = release(jaxlib), release(plugin)
        runtime = family.rstrip("0123456789")
        if family not in since["names"] and not since["any_rocm"]:
            reported = (family, other) == ("rocm7", (0, 6)) and jaxlib in ("0.6.0", "0.6.1", "0.6.2")
            truth = ("risk", "reported to load") if reported else ("broken", "jaxlib does not look for this name")
        elif one == other:
            truth = (None, "one release")
        elif runtime == "cuda" and runtime in since["checked"]:
            truth = ("broken", "jaxlib ignores a CUDA plugin of another release")
        elif other > one or runtime in since["checked"] or any(other < release(each) <= one for each in both):
            truth = ("risk", "it may load, without all kernels")
        else:
            truth = ("note", "the newest that there is")
        rows.append((installed(jaxlib, **{family: plugin}), *truth))
    return rows


ROWS = BY_HAND + drawn()


@pytest.mark.once
@pytest.mark.parametrize(("versions", "level", "truth"), ROWS, ids=[
    f"{at}-" + "-".join(f"{name}={number}" for name, number in row[0].items() if name not in ("jaxlib", "python"))
    for at, row in enumerate(ROWS)])  # fmt: skip
def test_real_packages_are_graded_by_what_jax_does_with_them(
    versions: dict[str, str], level: str | None, truth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rules of the table, not those of the jaxlib that runs the tests.
    monkeypatch.setattr(releases, "RULES_FILE", "no file")
    assert grade(versions) == level, truth


def changed(**versions: str) -> dict[str, str]:
    return {"jax": "0.12.0.1", "jaxlib": "0.12.0.1"} | {k.replace("_", "-"): v for k, v in versions.items()}


@pytest.mark.parametrize(
    ("versions", "odd"),
    [
        (changed(), None),
        (changed(jaxlib="0.11.2"), None),
        (changed(jax_rocm7_plugin="0.12.0.1", jax_rocm7_pjrt="0.12.0.1.post2"), None),
        (changed(jax="0.9.2", jaxlib="0.9.2", jax_cuda13_plugin="0.9.2+build7", jax_cuda13_pjrt="0.9.2"), None),
        (changed(jax="0.12.0", jaxlib="0.12", jax_cuda12_plugin="0.12", jax_cuda12_pjrt="0.12.0.post1"), None),
        (changed(jaxlib="0.12.1"), "jaxlib 0.12.1 does not match jax 0.12.0.1, which needs jaxlib 0.9.0 to 0.12.0.1"),
        (changed(jaxlib="0.8.3"), "jaxlib 0.8.3 does not match jax 0.12.0.1"),
        (changed(jax_rocm7_plugin="0.12.0", jax_rocm7_pjrt="0.12.0"), None),
        (changed(jaxlib="0.12.0", jax_cuda13_plugin="0.12.0", jax_cuda13_pjrt="0.12.0"), None),
        (
            changed(jax_cuda13_plugin="0.12.0", jax_cuda13_pjrt="0.12.0"),
            "jax-cuda13-plugin 0.12.0 does not match jaxlib",
        ),
        (changed(jax_cuda12_plugin="0.12.0.1", jax_cuda12_pjrt="0.11.2"), None),
        (changed(jax_cuda12_plugin="0.12.0.1"), "jax-cuda12-plugin 0.12.0.1 without jax-cuda12-pjrt"),
    ],
)
def test_parts_of_other_releases_are_named(
    versions: dict[str, str], odd: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "RULES_FILE", "no file")
    messages = [each.what for each in conflicts(versions, "0.9.0") if each.level == BROKEN]
    assert messages == [] if odd is None else odd in " ".join(messages)


@pytest.mark.jax
def test_the_rules_are_those_of_the_installed_jaxlib() -> None:
    """A vendor may patch the file: ROCm/TheRock PR 7084 does."""
    own = version("jaxlib")
    assert rules(own) == releases._listed(own)
    patched = '_PLUGIN_MODULE_NAMES = {"rocm": ["jax_rocm10_plugin"]}\ndef check_plugin_version():\n  return True\n'
    assert read_rules(patched) == Rules(frozenset({"rocm10"}), frozenset({"rocm"}))
    with pytest.raises(ValueError, match="_PLUGIN_MODULE_NAMES"):
        read_rules("import warnings\n")


@pytest.mark.parametrize(
    ("jax", "family", "python", "command"),
    [
        ("0.12.0.1", "rocm7", "3.12", "pip install 'jax[rocm7-local]==0.12.0'"),
        ("0.12.0.1", "cuda13", "3.12", "pip install 'jax[cuda13]==0.12.0.1'"),
        ("0.9.0.1", "rocm7", "3.12", "pip install 'jax[rocm]==0.9.1'"),
        ("0.12.0.1", "rocm7", "3.11", "pip install 'jax[rocm7-local]==0.10.2'"),
        ("0.5.3", "rocm60", "3.12", "pip install 'jax[rocm]==0.5.0'"),
        ("0.5.3", "rocm60", "3.13", None),
        ("0.12.0.1", "rocm10", "3.12",
         "pip install jax==0.12.0 jaxlib==0.12.0 jax-rocm10-plugin==0.12.0 jax-rocm10-pjrt==0.12.0"),
        ("0.14.0", "cuda13", "3.12", "pip install --upgrade 'jax[cuda13]'"),
        ("0.7.1", "cuda13", "3.12", "pip install 'jax[cuda13]==0.7.2'"),
    ],
)  # fmt: skip
def test_an_advice_names_what_exists_for_this_python_and_jax(
    jax: str, family: str, python: str, command: str | None
) -> None:
    assert install(jax, family, python) == command


@pytest.mark.once
def test_every_advice_of_the_table_exists() -> None:
    for jax in table()["jax"]:
        for family in table()["plugins"]:
            for python in ("3.11", "3.12", "3.13", "3.14"):
                text = install(jax, family, python)
                if text is None:
                    continue
                number = text.partition("==")[2].split("'")[0].split(" ")[0]
                row = table()["plugins"][family]
                assert number in table()["jax"], text
                assert any(release(each) == release(number) and python.replace(".", "") in pythons.split() and pjrt
                           for each, (_, pythons, pjrt) in row.items()), text  # fmt: skip
                if "[" in text:
                    assert extra(number, family) == text.split("[")[1].split("]")[0]


@pytest.mark.once
def test_the_tables_have_days_and_one_source() -> None:
    content: dict[str, Any] = tomllib.loads((KIT / "machine" / "releases.toml").read_text())
    assert content["source"].startswith("https://")
    for rows in (content["jax"], content["jaxlib"], *content["plugins"].values()):
        assert rows
        assert all(row[0] <= str(content["date"]) for row in rows.values())


@pytest.mark.slow
def test_the_table_is_that_of_the_index(tmp_path: Path) -> None:
    """Releases that are newer than the table are no error: `python -m releases` adds them."""
    from releases import __main__ as script

    try:
        content = tomllib.loads(script.toml())
    except (urllib.error.URLError, OSError) as error:
        pytest.skip(f"the package index does not answer: {error}")
    day = str(table()["date"])
    for name in ("jax", "jaxlib"):
        assert {key: row for key, row in content[name].items() if row[0] <= day} == table()[name]
    for family, rows in table()["plugins"].items():
        now = {key: row for key, row in content["plugins"][family].items() if row[0] <= day}
        # A wheel for another Python may have been added since.
        assert {key: (row[0], row[2]) for key, row in now.items()} == {k: (row[0], row[2]) for k, row in rows.items()}
        assert all(set(rows[key][1].split()) <= set(row[1].split()) for key, row in now.items())
    for name in ("runtimes", "loads"):
        assert content[name] == table()[name]
    for name in ("rules", "extras"):
        assert content[name][: len(table()[name])] == table()[name]
