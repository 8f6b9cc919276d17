"""`sftref doctor`: a copy of the kit -> its release, and the files that differ from that release.

An edited law is not the release's law, and changes what a verdict means. So every report also lists the files that
differ. They are compared with one of these:

    MANIFEST    a line `sha256  path` for each file, as `sha256sum --check MANIFEST` reads it. Release builds and
                `doctor --write` make it. If the installed kit is of the copy's release, its MANIFEST is used
    git         the commit that is checked out, for a clone or a submodule of sftref, which has no MANIFEST
"""

import hashlib
import os
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kit import KIT, PACKAGE

MANIFEST, VERSION = "MANIFEST", "VERSION"
MOST_NAMED = 20
GIT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Examined:
    """How the kit in a folder differs from its release."""

    kit: str  # the number of its release, from VERSION
    contract: int  # the number of its contract, from VERSION
    reference: str  # what the folder was compared with, after the word "as"
    changed: tuple[str, ...] = ()  # files whose content differs
    missing: tuple[str, ...] = ()  # files that the folder lacks
    added: tuple[str, ...] = ()  # files that the release does not have
    crlf: tuple[str, ...] = ()  # the files in `changed` that differ in line endings only

    @property
    def whole(self) -> bool:
        """Whether no file differs."""
        return not (self.changed or self.missing or self.added)

    def to_json(self) -> dict[str, Any]:
        """The section `kit` of a report."""
        return {name: getattr(self, name) for name in ("kit", "contract", "changed", "missing", "added")}


def _counts(name: str) -> bool:
    """Whether a file belongs to the kit; Python, pytest, Hypothesis and editors leave other files."""
    parts = name.split("/")
    return name != MANIFEST and not any(part.startswith(".") or part == "__pycache__" for part in parts)


def hashes(folder: Path) -> dict[str, str]:
    """Path of each file of the kit, relative to the folder -> its SHA-256."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if _counts(name)}


def version(folder: Path = KIT) -> tuple[str, int]:
    """The numbers of release and contract in the VERSION of a folder."""
    content = tomllib.loads((folder / VERSION).read_text(encoding="utf-8"))
    return str(content["kit"]), int(content["contract"])


def _compare_with_manifest(folder: Path, source: Path) -> dict[str, Any]:
    lines = (source / MANIFEST).read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    here = hashes(folder)
    changed = tuple(name for name in listed if name in here and here[name] != listed[name])

    def as_lf(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes().replace(b"\r\n", b"\n")).hexdigest()

    return {
        "reference": "listed in MANIFEST" if source == folder else "in the installed release",
        "changed": changed,
        "missing": tuple(name for name in listed if name not in here),
        "added": tuple(name for name in here if name not in listed),
        "crlf": tuple(name for name in changed if as_lf(name) == listed[name]),
    }


def _git(folder: Path, *words: str) -> str | None:
    """The output of git in a folder; None if git fails. In a git hook, GIT_DIR would name another repository."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), "--no-optional-locks", *words]
    try:
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None


def _compare_with_commit(folder: Path) -> dict[str, Any] | None:
    """The files that differ from the commit; None if the folder is not in a clone or a submodule of sftref."""
    root = folder.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", VERSION, "../sftref/__init__.py") is None:
        return None
    where = (_git(folder, "rev-parse", "--show-toplevel", "--short", "HEAD") or "").splitlines()
    status = _git(folder, "status", "--porcelain", "-z", "--no-renames", "-uall", "--ignored=matching", "--", ".")
    if len(where) != 2 or Path(where[0]) != root or status is None:
        return None
    lists: dict[str, list[str]] = {"changed": [], "missing": [], "added": []}
    for entry in filter(None, status.split("\0")):
        state, name = entry[:2], entry[3:].removeprefix(f"{folder.resolve().name}/")
        if _counts(name):
            kind = "missing" if "D" in state else "added" if state in ("??", "!!") or "A" in state else "changed"
            lists[kind].append(name)
    return {"reference": f"committed in {where[1]}"} | {kind: tuple(names) for kind, names in lists.items()}


def examine(folder: Path = KIT) -> Examined:
    """Compare a folder with its release; a ValueError says that it has no VERSION, or neither MANIFEST nor commit."""
    try:
        kit, contract = version(folder)
        another = folder.resolve() != KIT.resolve()
        same = another and (KIT / MANIFEST).is_file() and (kit, contract) == version()
        if not (folder / MANIFEST).is_file():
            differences = _compare_with_commit(folder)
        else:
            differences = _compare_with_manifest(folder, KIT if same else folder)
        if differences is None and same:
            differences = _compare_with_manifest(folder, KIT)
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"doctor {folder}: must be a folder with the kit, its {VERSION} and its {MANIFEST} ({reason}); name the "
            "folder that has `adapter.py` and `VERSION`"
        ) from error
    if differences is None:
        raise ValueError(
            f"doctor {folder}: has no {MANIFEST}, as it was copied from a clone; write one with `python -m {PACKAGE} "
            f"doctor {folder} --write`, or compare with an installed release: `sftref doctor {folder}`"
        )
    return Examined(kit=kit, contract=contract, **differences)


def lines(folder: Path, examined: Examined) -> Iterator[str]:
    """The lines that `doctor` prints."""
    state = "as" if examined.whole else "not as"
    yield f"{folder}: kit {examined.kit}, contract {examined.contract}, {state} {examined.reference}"
    for word in ("changed", "missing", "added"):
        names = [name for name in getattr(examined, word) if word != "changed" or name not in examined.crlf]
        yield from (f"  {word}: {name}" for name in names[:MOST_NAMED])
        if len(names) > MOST_NAMED:
            yield f"  {word}: {len(names) - MOST_NAMED} more"
    if examined.crlf:
        yield f"  changed in line endings only: {len(examined.crlf)} files have CRLF in place of LF"
        yield "next step: git config core.autocrlf false, delete the folder and check it out again"
    if len(examined.changed) > len(examined.crlf) or examined.missing or examined.added:
        yield "next step: put the files back; change an adapter instead, or accept failures with --deviations"
    own = version()
    if (examined.kit, examined.contract) != own:
        yield f"this command is of kit {own[0]}, contract {own[1]}"
        if examined.contract != own[1]:
            yield f"next step: read what each contract changed, in the newer kit's {VERSION}, before you update"


def write(folder: Path = KIT) -> Path:
    """Write the MANIFEST of a folder as it is now; returns its path."""
    path = folder / MANIFEST
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in hashes(folder).items()), encoding="utf-8")
    return path
