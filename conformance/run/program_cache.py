"""Compiled programs that outlive a run, with what each check measured when they were compiled anew.

    ROOT/jax-0.10.2-5c1e0f2b9a47/programs/      JAX's own cache
    ROOT/jax-0.10.2-5c1e0f2b9a47/cold.json      what every check measured in the run that compiled them

A program that was kept says nothing of the compiler, and what is kept may be wrong: truncated, of another machine, of
an earlier state of the code. So no result of one is believed for itself. With the same values it must be, error for
error and bit for bit, the result that the check had when its programs were compiled anew. Where it is not, the check is
asked again with everything compiled anew: if that gives the same, what is asked had changed; if not, the kept programs
are wrong, the run is UNTRUSTED, and they are thrown away.

Devices other than a CPU's may add up in another order each time, so there the same verdict on as many comparisons must
do, each within its bound.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.kit import KIT
from ..core.result import Result
from ..core.settings import Settings
from ..machine.snapshot import KEEPS_PROGRAMS, keeps_programs

# Results that another run can be held against; anything else is asked again.
COMPARABLE = ("pass", "not_run")
CPU = Path("/proc/cpuinfo")
# Variables that differ from run to run (tox draws this one) and on which no program may depend.
DRAWN = ("PYTHONHASHSEED",)


class Kept:
    """The folder for one question on one machine.

    Args:
        root: of all such folders.
        settings: what is asked.
        static: the machine, as `environment.static` tells.

    Raises:
        ValueError: the folder cannot be written, or this JAX's programs cannot be kept.
    """

    def __init__(self, root: Path, settings: Settings, static: Mapping[str, Any]) -> None:
        if not keeps_programs(static["versions"]):
            least = ".".join(map(str, KEEPS_PROGRAMS))
            raise ValueError(
                f"--cache {root}: needs JAX {least} or later, and {static['versions'].get('jax')} is installed, whose "
                "kept programs crash; leave --cache out"
            )
        asked = dataclasses.asdict(settings) | {"self_test": None, "remedies": None}
        variables = {name: value for name, value in static["variables"].items() if name not in DRAWN}
        machine = {**static, "variables": variables}
        digest = hashlib.sha256(json.dumps([asked, machine, _processor()], sort_keys=True).encode())
        for path in sorted(KIT.rglob("*.py")):
            digest.update(path.read_bytes())
        self.folder = root / f"jax-{static['versions'].get('jax', 'unknown')}-{digest.hexdigest()[:12]}"
        self.programs, self.results = self.folder / "programs", self.folder / "cold.json"
        self.cold = self._read()
        try:
            if not self.cold:
                shutil.rmtree(self.programs, ignore_errors=True)
            self.programs.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".probe"
            probe.write_bytes(b"\0")
            probe.unlink()
        except OSError as error:
            said = error.strerror or error
            raise ValueError(f"--cache {root}: must be a folder that can be written ({said})") from error

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.results.read_text(encoding="utf-8"))
            return found if {"since", "devices", "checks"} <= found.keys() else {}
        except (OSError, ValueError, AttributeError):
            return {}

    @property
    def since(self) -> str | None:
        """The day of the run that compiled the programs; None where this one does."""
        return self.cold.get("since")

    def doubtful(self, records: Iterable[Result], live: Mapping[str, Any]) -> list[str]:
        """The checks whose results with kept programs are not those of the run that compiled them."""
        same_devices = self.cold["devices"] == _devices(live)
        exact = live.get("platforms") == ["cpu"]
        cold = self.cold["checks"]
        return [
            record.id for record in records
            if not same_devices or cold.get(record.id) != _result(record, exact=exact)
        ]  # fmt: skip

    def keep(self, records: Iterable[Result], live: Mapping[str, Any]) -> None:
        """Store what was measured with programs that were compiled anew, or held against such a result.

        Raises:
            OSError: there is no room.
        """
        exact = live.get("platforms") == ["cpu"]
        checks = {r.id: _result(r, exact=exact) for r in records if r.status in COMPARABLE}
        since = self.since or datetime.datetime.now(datetime.UTC).date().isoformat()
        content = {"since": since, "devices": _devices(live), "checks": checks}
        part = self.results.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.results)

    def throw_away(self) -> None:
        """Keep nothing of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def agree(first: Result, second: Result, live: Mapping[str, Any]) -> bool:
    """Whether a check found the same with kept programs and with those that were compiled anew."""
    exact = live.get("platforms") == ["cpu"]
    return _result(first, exact=exact) == _result(second, exact=exact)


def _result(record: Result, *, exact: bool) -> list[Any]:
    # Errors in words hold addresses and times.
    why = record.message if record.status == "not_run" else ""
    return [record.status, why, record.comparisons, record.compared, record.digest if exact else ""]


def _devices(live: Mapping[str, Any]) -> list[str]:
    return [f"{device['kind']} {live.get('platform_version', '')}".strip() for device in live.get("devices", [])]


def _processor() -> list[str]:
    """Model and instructions: a program of another processor may not run here."""
    if not CPU.is_file():
        return []
    lines = CPU.read_text(errors="replace").splitlines()
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
