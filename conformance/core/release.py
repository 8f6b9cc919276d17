"""`sftref doctor`: a copy of the kit -> which release it is of, and which of its files are not that release's.

    MANIFEST    `sha256  path` of each file, as `sha256sum` writes and `sha256sum --check MANIFEST` reads them

A verdict is that of the kit that gave it: a law that somebody edited, or left out, is a law of theirs. So every report
says of which kit it is and what differs. `python -m sftref.conformance.core.release --write` makes the manifest anew.
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .kit import KIT

MANIFEST, VERSION = "MANIFEST", "VERSION"
MOST_NAMED = 20
# What Python, pytest, Hypothesis and an editor leave behind.
LEFT_BEHIND = ("__pycache__",)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What a folder holds, beside its manifest.

    Attributes:
        kit: the release, as its VERSION says.
        contract: its contract.
        changed: files whose content is another.
        missing: files that are not there.
        added: files that the release does not have.
    """

    kit: str
    contract: int
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is the release, file for file."""
        return not (self.changed or self.missing or self.added)

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def hashes(folder: Path) -> dict[str, str]:
    """Each file's SHA-256, by its path from the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in LEFT_BEHIND for part in inside.parts)
        if path.is_file() and not hidden and inside.as_posix() != MANIFEST:
            found[inside.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _version(folder: Path) -> tuple[str, int]:
    version = tomllib.loads((folder / VERSION).read_text(encoding="utf-8"))
    return str(version["kit"]), int(version["contract"])


def _listed(folder: Path) -> dict[str, str]:
    lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def examine(folder: Path = KIT) -> Examined:
    """Hold a folder against its manifest; of this kit's release, against this kit's own, which nobody edited there.

    Raises:
        ValueError: it has no manifest or no version, or none that can be read.
    """
    try:
        (kit, contract), listed = _version(folder), _listed(folder)
        if (kit, contract) == _version(KIT):
            listed = _listed(KIT)
    except (OSError, ValueError, KeyError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"doctor {folder}: must be a folder with the kit, its {VERSION} and its {MANIFEST} ({said}); name the "
            "folder that holds `adapter.py` and `VERSION`"
        ) from error
    here = hashes(folder)
    return Examined(
        kit=kit,
        contract=contract,
        changed=tuple(name for name in listed if name in here and here[name] != listed[name]),
        missing=tuple(name for name in listed if name not in here),
        added=tuple(name for name in here if name not in listed),
    )


def told(folder: Path, found: Examined, own: Examined) -> Iterator[str]:
    """In lines, with how to take an update.

    Args:
        folder: that was looked at.
        found: in it.
        own: of the kit that looks.
    """
    state = "as released" if found.whole else "not as released"
    yield f"{folder}: kit {found.kit}, contract {found.contract}, {state}"
    for word in ("changed", "missing", "added"):
        names: tuple[str, ...] = getattr(found, word)
        yield from (f"  {word}: {name}" for name in names[:MOST_NAMED])
        if len(names) > MOST_NAMED:
            yield f"  {word}: {len(names) - MOST_NAMED} more"
    if not found.whole:
        yield "next step: put the files back; what a trainer needs belongs in its adapter, failures in --deviations"
    if (found.kit, found.contract) != (own.kit, own.contract):
        yield f"this command is of kit {own.kit}, contract {own.contract}"
        if found.contract != own.contract:
            yield "next step: read sftref's CHANGELOG before taking one for the other, since the contract differs"


def main() -> int:
    """Write the manifest of this folder."""
    if sys.argv[1:] != ["--write"]:
        print("usage: python -m sftref.conformance.core.release --write; to look, `sftref doctor`", file=sys.stderr)
        return 2
    text = "".join(f"{digest}  {name}\n" for name, digest in hashes(KIT).items())
    (KIT / MANIFEST).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
