"""Compiled programs that are kept between runs, with the results of the run that compiled them.

    ROOT/jax-0.10.2-5c1e0f2b9a47/programs/      JAX's own cache
    ROOT/jax-0.10.2-5c1e0f2b9a47/cold.json      the result of every check in the run that compiled them

A cached program does not test the compiler, and may itself be wrong: truncated, from another machine, or from an
earlier state of the code. So with cached programs, each comparison of a check must have the same error, bit for bit, as
in the run that compiled them. A check whose result differs is rerun with fresh programs. If they give the differing
result again, the code under test has changed. If not, the cache is wrong: the run is UNTRUSTED, the cache is deleted.

Devices other than CPUs may sum in another order each time. On them, a check only needs the same status and the same
number of comparisons.
"""

import dataclasses
import datetime
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core import output
from ..core.kit import KIT
from ..core.result import Result
from ..core.settings import Settings
from ..machine.snapshot import KEEPS_PROGRAMS, keeps_programs

# Statuses of results that are stored for later runs; checks with any other status are rerun.
COMPARABLE = ("pass", "not_run")
CPU = Path("/proc/cpuinfo")


class ProgramCache:
    """The folder in `root` for one combination of settings and machine; `snapshot.static` describes the machine.

    A ValueError says that the folder cannot be written, or that this JAX crashes on cached programs.
    """

    def __init__(self, root: Path, settings: Settings, static: Mapping[str, Any]) -> None:
        jax = static["versions"].get("jax")
        if not keeps_programs(static["versions"]):
            least = ".".join(map(str, KEEPS_PROGRAMS))
            raise ValueError(
                f"--cache {root}: needs JAX {least} or later, but JAX {jax} is installed, which crashes on cached "
                "programs; leave --cache out"
            )
        options = dataclasses.asdict(settings) | {"self_test": None, "remedies": None}
        # tox sets this variable to another number in each run, and no program depends on it.
        variables = {name: value for name, value in static["variables"].items() if name != "PYTHONHASHSEED"}
        machine = {**static, "variables": variables}
        digest = hashlib.sha256(json.dumps([options, machine, _processor()], sort_keys=True).encode())
        for path in sorted(KIT.rglob("*.py")):
            digest.update(path.read_bytes())
        self.folder = root / f"jax-{jax or 'unknown'}-{digest.hexdigest()[:12]}"
        self.programs, self.results = self.folder / "programs", self.folder / "cold.json"
        self.cold = self._read()
        try:
            if not self.cold:
                shutil.rmtree(self.programs, ignore_errors=True)
            self.programs.mkdir(parents=True, exist_ok=True)
            output.probe(self.folder)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"--cache {root}: must be a folder that can be written ({reason})") from error

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.results.read_text(encoding="utf-8"))
            return content if {"since", "devices", "checks"} <= content.keys() else {}
        except (OSError, ValueError, AttributeError):
            return {}

    @property
    def since(self) -> str | None:
        """The day on which the programs were compiled; None if this run compiles them."""
        return self.cold.get("since")

    def differing(self, records: Iterable[Result], live: Mapping[str, Any]) -> list[str]:
        """The checks whose results differ from those of the run that compiled; all of them if the devices differ."""
        cold = self.cold["checks"] if self.cold["devices"] == _devices(live) else {}
        return [r.id for r in records if cold.get(r.id) != _comparable(r, live)]

    def store(self, records: Iterable[Result], live: Mapping[str, Any]) -> None:
        """Store results, to which later runs are compared; an OSError says that there is no space."""
        checks = {r.id: _comparable(r, live) for r in records if r.status in COMPARABLE}
        since = self.since or datetime.datetime.now(datetime.UTC).date().isoformat()
        content = {"since": since, "devices": _devices(live), "checks": checks}
        output.write(self.folder, {self.results.name: json.dumps(content, indent=1) + "\n"})

    def delete(self) -> None:
        """Delete the cached programs and their results."""
        shutil.rmtree(self.folder, ignore_errors=True)


def agree(cached: Result, fresh: Result, live: Mapping[str, Any]) -> bool:
    """Whether a check has the same result with cached and with fresh programs."""
    return _comparable(cached, live) == _comparable(fresh, live)


def _comparable(record: Result, live: Mapping[str, Any]) -> list[Any]:
    # Messages of other statuses may contain addresses and times, which differ in each run.
    reason = record.message if record.status == "not_run" else ""
    digest = record.digest if live.get("platforms") == ["cpu"] else ""
    return [record.status, reason, record.comparisons, record.compared, digest]


def _devices(live: Mapping[str, Any]) -> list[str]:
    return [f"{device['kind']} {live.get('platform_version', '')}".strip() for device in live.get("devices", [])]


def _processor() -> list[str]:
    """Model and instruction set of the processor: a program compiled for another one may not run here."""
    if not CPU.is_file():
        return []
    lines = CPU.read_text(errors="replace").splitlines()
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
