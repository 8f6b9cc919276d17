"""The metadata of the package index -> `conformance/machine/releases.toml`. Rerun it when a release appears.

    PYTHONPATH=tests/studies python -m releases > conformance/machine/releases.toml

It belongs to the repository and not to the kit, because it needs the network and a minute; the kit reads the table. Of
each wheel it reads only the end, where a zip file has its list of files, and the metadata, as pip's fast-deps does.
`tests/machine/test_releases.py` (slow) compares the table with the index.
"""

import datetime
import email
import functools
import io
import json
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable
from typing import Any
from urllib.parse import urljoin

from packaging.requirements import Requirement
from packaging.version import Version
from sftref.conformance.machine.releases import PACKAGE, RULES_FILE, Rules, read_rules

INDEX = "https://pypi.org/simple"
# The first release of jax that sftref supports (pyproject.toml), and the packages of accelerators.
SINCE = Version("0.5")
FAMILIES = {"cuda12": "12", "cuda13": "13", "rocm60": "6", "rocm7": "7", "rocm10": "10"}
FIRST = Version("0.4.35")  # the first release of a ROCm plugin
# Pairs that work although jaxlib does not know the plugin's name, from people who tried them.
LOADS = """
[[loads]]
package = "jax-rocm7-plugin"
version = "0.6.0"
jaxlib = ["0.6.0", "0.6.1", "0.6.2"]
source = "https://github.com/ROCm/rocm-jax/pull/130"
"""


class Remote(io.RawIOBase):
    """A file behind a URL that reads only the ranges that it is asked for."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.at = url, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.size - self.at)
        if count > 0:
            data = get(self.url, Range=f"bytes={self.at}-{self.at + count - 1}")
            buffer[: len(data)] = data
            self.at += len(data)
        return max(count, 0)


def get(url: str, **headers: str) -> bytes:
    """The contents behind a URL; a failed connection is tried three times."""
    for trial in range(3):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if trial == 2:
                raise
            time.sleep(1 + trial)
    raise AssertionError


@functools.cache
def files(package: str) -> dict[str, list[dict[str, Any]]]:
    """A package's final releases that are not withdrawn, oldest first, with the index's entries of their wheels."""
    page = f"{INDEX}/{package}/"
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(get(page, Accept="application/vnd.pypi.simple.v1+json"))["files"]:
        words = entry["filename"].split("-")
        if entry["filename"].endswith(".whl") and not entry["yanked"] and not Version(words[1]).is_prerelease:
            # A mirror's addresses can be relative, or joined twice.
            address = urljoin(page, entry["url"])
            found.setdefault(words[1], []).append(entry | {"url": address[address.rindex("https://") :]})
    return {version: found[version] for version in sorted(found, key=Version)}


def member(wheel: dict[str, Any], end: str) -> str | None:
    """The text of the first file of a wheel whose name ends so; None if there is none."""
    with zipfile.ZipFile(io.BufferedReader(Remote(wheel["url"], wheel["size"]), 1 << 15)) as opened:
        name = next((name for name in opened.namelist() if name.endswith(end)), None)
        return None if name is None else opened.read(name).decode()


def smallest(package: str, version: str) -> dict[str, Any]:
    """The smallest wheel of a release: their metadata agree."""
    return min(files(package)[version], key=lambda wheel: wheel["size"])


@functools.cache
def requirements(package: str, version: str) -> tuple[tuple[str, str, Requirement], ...]:
    """(extra, name, requirement) of each requirement of a release."""
    text = member(smallest(package, version), ".dist-info/METADATA") or ""
    found = [Requirement(line) for line in email.message_from_string(text).get_all("Requires-Dist") or []]
    extras = [re.search(r'extra == "([^"]+)"', str(each.marker)) for each in found]
    return tuple((extra[1] if extra else "", each.name, each) for extra, each in zip(extras, found, strict=True))


def date(package: str, version: str) -> str:
    """The day of a release's first wheel."""
    return str(min(wheel["upload-time"] for wheel in files(package)[version]))[:10]


def pythons(package: str, version: str) -> str:
    """The Pythons of a release's wheels, as `311 312`; empty if one wheel is for all."""
    tags = {tag for wheel in files(package)[version] for tag in re.findall(r"-cp(\d+)-", wheel["filename"])}
    return " ".join(sorted(tags, key=int))


def since(package: str) -> list[str]:
    """The releases of jax or jaxlib that are covered."""
    return [version for version in files(package) if Version(version) >= SINCE]


def jax_row(version: str) -> list[str]:
    """Day, least Python, least jaxlib and libtpu of a release of jax."""
    entry = smallest("jax", version)
    parts = {(extra, name): each for extra, name, each in requirements("jax", version)}
    least = next(each.version for each in parts["", "jaxlib"].specifier if each.operator == ">=")
    tpu = next(each.version for each in parts["tpu", "libtpu"].specifier)
    return [date("jax", version), entry["requires-python"].removeprefix(">="), least, tpu]


def extras(version: str) -> dict[str, str]:
    """Family of plugins -> the extra of this jax that installs it; of several, the one that also brings its libraries.

    Of two with one meaning (cuda and cuda12), the one that names the family; `-local` extras bring no libraries.
    """
    found: dict[str, str] = {}
    for extra, name, _ in requirements("jax", version):
        match = PACKAGE.fullmatch(name)
        if match and match["family"] in FAMILIES and match["half"] == "plugin":
            best = found.get(match["family"])
            if best is None or extra == match["family"]:
                found[match["family"]] = extra
    return found


def plugin_releases(family: str) -> list[str]:
    """The releases of either half of a plugin."""
    both = {*files(f"jax-{family}-plugin"), *files(f"jax-{family}-pjrt")}
    return sorted((version for version in both if Version(version) >= FIRST), key=Version)


def plugin_row(family: str, version: str) -> list[str]:
    """Day and Pythons of a release of a plugin, and the day of its PJRT half."""
    plugin, pjrt = f"jax-{family}-plugin", f"jax-{family}-pjrt"
    first = [date(plugin, version), pythons(plugin, version)] if version in files(plugin) else ["", ""]
    return [*first, date(pjrt, version) if version in files(pjrt) else ""]


def rules_of(version: str) -> Rules:
    """The rules of a release of jaxlib. Before 0.5.3 it has no file of them, and compares no releases."""
    source = member(smallest("jaxlib", version), RULES_FILE)
    return Rules(frozenset({"cuda12", "rocm60"}), frozenset()) if source is None else read_rules(source)


def changes(versions: Iterable[str], fact: Any) -> list[tuple[str, Any]]:
    """The releases at which a fact changes, with its new value."""
    found: list[tuple[str, Any]] = []
    for version in versions:
        value = fact(version)
        if not found or found[-1][1] != value:
            found.append((version, value))
    return found


def toml() -> str:
    """The table."""
    lines = [
        "# Facts about releases, from the metadata of the package index and jaxlib's own rules. Made by",
        "# `PYTHONPATH=tests/studies python -m releases`; do not edit. `releases.py` explains the entries.",
        f'source = "{INDEX}"',
        f"date = {datetime.datetime.now(datetime.UTC).date()}",
        "",
        "# release of jax = [day, least Python, least jaxlib (the most is the release itself), libtpu of its extra]",
        "[jax]",
        *(f"{json.dumps(version)} = {json.dumps(jax_row(version))}" for version in since("jax")),
        "",
        "# release of jaxlib = [day, Pythons of its wheels]",
        "[jaxlib]",
        *(f"{json.dumps(version)} = {json.dumps([date('jaxlib', version), pythons('jaxlib', version)])}"
          for version in since("jaxlib")),
        "",
        "# Major version of the runtime that a family of plugins is for.",
        "[runtimes]",
        *(f'{family} = "{number}"' for family, number in FAMILIES.items()),
    ]  # fmt: skip
    lines += ["", "# Extras of jax, from a release on: family of plugins = the extra that installs it."]
    for version, names in changes(since("jax"), extras):
        inner = ", ".join(f'{family} = "{extra}"' for family, extra in sorted(names.items()))
        lines += ["[[extras]]", f'since = "{version}"', f"names = {{ {inner} }}"]
    lines += ["", f"# From a release of jaxlib on, by its {RULES_FILE}: names of plugins that it looks for, runtimes"]
    lines += ["# whose plugins must be of jaxlib's release, and whether it also finds ROCm plugins with other numbers."]
    for version, each in changes(since("jaxlib"), rules_of):
        lines += ["[[rules]]", f'since = "{version}"', f"names = {json.dumps(sorted(each.names))}"]
        lines += [f"checked = {json.dumps(sorted(each.checked))}", f"any_rocm = {json.dumps(each.any_rocm)}"]
    lines += LOADS.splitlines()
    for family in FAMILIES:
        lines += ["", "# release = [day of the plugin, Pythons of its wheels, day of the PJRT half]; empty: none"]
        lines += [f"[plugins.{family}]", *(f"{json.dumps(version)} = {json.dumps(plugin_row(family, version))}"
                                           for version in plugin_releases(family))]  # fmt: skip
    rows = [json.dumps(f"{version} {date('libtpu', version)}") for version in files("libtpu")]
    lines += ["", "# Releases of libtpu, with their days.", "[libtpu]", "releases = ["]
    lines += [f"    {', '.join(rows[at : at + 4])}," for at in range(0, len(rows), 4)]
    lines += ["]"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(toml())
