"""Facts about real releases of JAX and its accelerator packages, and the rules by which jaxlib uses a plugin.

The facts are in `releases.toml`, which `tests/studies/releases` makes from the metadata of the package index.
"""

import ast
import functools
import importlib.metadata
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The file of jaxlib that decides which plugins it uses, from jaxlib 0.5.3 on.
RULES_FILE = "jaxlib/plugin_support.py"
# jax-cuda12-plugin, jax-cuda13-pjrt, jax-rocm7-plugin ...: its family, with its number, and its half.
PACKAGE = re.compile(r"jax-(?P<family>(?P<runtime>[a-z]+)(?P<number>\d*))-(?P<half>plugin|pjrt)")


@dataclass(frozen=True)
class Rules:
    """How a release of jaxlib looks for the kernels of plugins."""

    names: frozenset[str]  # families of the plugins that it knows, as cuda13 and rocm7
    checked: frozenset[str]  # runtimes whose plugins must be of jaxlib's release, as cuda
    any_rocm: bool = False  # whether it also finds a ROCm plugin with another number


@functools.cache
def release(version: str) -> tuple[int, ...]:
    """The numbers that two packages must share: 0.9.2.post1 and 0.9.2+rocm7 are of release 0.9.2.

    Raises:
        ValueError: the version does not begin with a number.
    """
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    if match is None:
        raise ValueError(f"version {version!r} does not begin with a number")
    numbers = [int(word) for word in match.group().split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


@functools.cache
def table() -> dict[str, Any]:
    """The contents of `releases.toml`."""
    content: dict[str, Any] = tomllib.loads(Path(__file__).with_name("releases.toml").read_text(encoding="utf-8"))
    return content


def read_rules(source: str) -> Rules:
    """The text of jaxlib's `plugin_support.py` -> its rules, without running it.

    A ValueError if the text has no list of names; jaxlib then has rules that are not known here.
    """
    tree = ast.parse(source)
    names: dict[str, Any] = {}
    exempt = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("_PLUGIN_MODULE_NAME"):
            names = ast.literal_eval(node.value)
        if isinstance(node, ast.FunctionDef) and node.name == "check_plugin_version":
            # A ROCm plugin skips the comparison of releases: the function returns True before it.
            exempt = sum(isinstance(part, ast.Return) and ast.unparse(part) == "return True"
                         for part in ast.walk(node)) > 1  # fmt: skip
    if not names:
        raise ValueError("jaxlib's plugin_support.py has no _PLUGIN_MODULE_NAMES")
    modules = [name for value in names.values() for name in ([value] if isinstance(value, str) else value)]
    return Rules(
        frozenset(module.removeprefix("jax_").removesuffix("_plugin") for module in modules),
        frozenset(names) - ({"rocm"} if exempt else set()),
        "pkgutil" in source,
    )


def rules(jaxlib: str) -> Rules | None:
    """The rules of a jaxlib: those of its installed file, else the table's; None if they are not known.

    The file comes first, since a vendor's jaxlib of the same version can have other rules.
    """
    try:
        found = importlib.metadata.distribution("jaxlib")
        if found.version == jaxlib:
            return read_rules(Path(str(found.locate_file(RULES_FILE))).read_text(encoding="utf-8"))
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, SyntaxError):
        pass
    return _listed(jaxlib)


def _listed(jaxlib: str) -> Rules | None:
    """The rules of a jaxlib in the table; None if the table does not have it."""
    rows = [row for row in table()["rules"] if release(row["since"]) <= release(jaxlib)]
    if not rows or all(release(each) != release(jaxlib) for each in table()["jaxlib"]):
        return None
    return Rules(frozenset(rows[-1]["names"]), frozenset(rows[-1]["checked"]), rows[-1]["any_rocm"])


def published(family: str, python: str) -> list[str]:
    """The releases of a plugin whose two halves are on the index for this Python, oldest release first."""
    tag = "".join(python.split(".")[:2])
    rows = table()["plugins"].get(family, {}).items()
    return [version for version, (_, pythons, pjrt) in rows if tag in pythons.split() and pjrt]


def extra(jax: str, family: str) -> str | None:
    """The extra of this jax that installs a family of plugins, as rocm7-local for rocm7; None if it has none."""
    rows = [row for row in table()["extras"] if release(row["since"]) <= release(jax)]
    return rows[-1]["names"].get(family) if rows else None


def jax_row(jax: str) -> tuple[str, str, str, str] | None:
    """Day, least Python, least jaxlib and libtpu of a release of jax; None if the table does not have it."""
    return next((tuple(row) for version, row in table()["jax"].items() if release(version) == release(jax)), None)


def install(jax: str, family: str, python: str) -> str | None:
    """The command that installs a plugin with this jax; if it was not published for it, with the nearest jax.

    The nearest is the next release of the same minor version, else the newest older one, else the newest of all. None
    if no release is for this Python.
    """
    wanted, jaxes = release(jax), [release(each) for each in table()["jax"]]
    if wanted > max(jaxes):
        name = extra(jax, family)
        return f"pip install --upgrade 'jax[{name}]'" if name else None
    fit = {release(version): version for version in published(family, python) if _pairs(version, family, python)}
    if not fit:
        return None
    next_one = min((each for each in fit if each >= wanted and each[:2] == wanted[:2]), default=None)
    known = next_one or max((each for each in fit if each <= wanted), default=max(fit))
    number = next(each for each in table()["jax"] if release(each) == known)
    name = extra(number, family)
    if name:
        return f"pip install 'jax[{name}]=={number}'"
    halves = " ".join(f"jax-{family}-{half}=={fit[known]}" for half in ("plugin", "pjrt"))
    return f"pip install jax=={number} jaxlib=={number} {halves}"


def _pairs(version: str, family: str, python: str) -> bool:
    """Whether jax and jaxlib of a plugin's release exist for this Python, and this jaxlib uses the plugin."""
    number = next((each for each in table()["jaxlib"] if release(each) == release(version)), None)
    if number is None or jax_row(number) is None or "".join(python.split(".")[:2]) not in table()["jaxlib"][number][1]:
        return False
    listed = _listed(number)
    return listed is not None and (family in listed.names or loads(number, family, version) is not None)


def families(runtime: str, number: str) -> list[str]:
    """The families of plugins in the table for a major version of a runtime, as [rocm7] for rocm and 7."""
    return [each for each, value in table()["runtimes"].items() if each.startswith(runtime) and value == number]


def major(family: str) -> str | None:
    """The major version of the runtime that a family of plugins is for: rocm60 is for ROCm 6, rocm7 for ROCm 7.

    None for a family that the table does not have: its number alone does not say.
    """
    value: str | None = table()["runtimes"].get(family)
    return value


def loads(jaxlib: str, family: str, version: str) -> str | None:
    """The source that says that this pair works although jaxlib does not know the plugin's name; else None."""
    for row in table()["loads"]:
        same = row["package"] == f"jax-{family}-plugin" and release(row["version"]) == release(version)
        if same and release(jaxlib) in (release(each) for each in row["jaxlib"]):
            return str(row["source"])
    return None


def halves(versions: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Installed plugins: family -> half (plugin, pjrt) -> version."""
    found: dict[str, dict[str, str]] = {}
    for name, version in versions.items():
        if match := PACKAGE.fullmatch(name):
            found.setdefault(match["family"], {})[match["half"]] = version
    return found
