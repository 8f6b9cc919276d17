"""What process 0 knows of each process of a run: its host, how each phase went there, and what differs from others."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PHASES = ("start", "alone", "pairs", "together")
# The states of a process in a phase, the worst first.
STATES = ("absent", "lost", "hang", "crash", "fail", "error", "different", "slow", "pass", "not_run")
# A process in one of these states takes no part in later phases.
OUT = ("absent", "lost")
# The most bytes of a message, and the most failed checks that are named.
MESSAGE, NAMED = 400, 8
# Variables that differ between right hosts: of the process, the job or the machine.
OWN_VARIABLES = (
    "SFTREF_PROCESS_ID", "SFTREF_CLUSTER_FAULT", "SFTREF_CLUSTER_PROCESS", "SFTREF_CLUSTER_JOB", "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "TPU_WORKER_ID", "JAX_LOCAL_DEVICE_IDS",
    "JAX_PROCESS_ID", "NVIDIA_VISIBLE_DEVICES", "TPU_PROCESS_PORT", "SFTREF_SCRATCH",
)  # fmt: skip
# Parts of the environment whose difference makes programs or results differ; of variables, those of compilers.
BROKEN = (
    "versions.jax",
    "versions.jaxlib",
    "versions.libtpu",
    "devices",
    "kind",
    "config.",
    "variables.XLA_",
    "variables.JAX_",
)
# Seconds by which clocks may differ. With more, time stamps of logs and certificates mislead.
CLOCK = 5.0


@dataclass
class Host:
    """One process, and the host on which it runs."""

    process: int  # its number
    name: str = ""  # the name of its host; empty if it never came
    facts: dict[str, Any] = field(default_factory=dict)  # what its agent reported about the host
    live: dict[str, Any] = field(
        default_factory=dict
    )  # its devices and JAX's settings, as `snapshot.live` returns them
    states: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PHASES, "not_run"))
    messages: dict[str, str] = field(default_factory=dict)  # phase -> what went wrong
    stack: list[str] = field(default_factory=list)  # where it hung, innermost frame first
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)  # phase -> counts by status, and failed ids
    seconds: dict[str, float] = field(default_factory=dict)  # phase -> seconds

    def set(self, phase: str, state: str, message: str = "", stack: Iterable[str] = ()) -> None:
        """Set the state of a phase, unless a worse one is set already."""
        if STATES.index(state) < STATES.index(self.states[phase]):
            self.states[phase] = state
            if message:
                self.messages[phase] = " ".join(message.split())
            self.stack = list(stack) or self.stack

    @property
    def phase(self) -> str | None:
        """The first phase that went wrong."""
        return next((phase for phase in PHASES if self.states[phase] not in ("pass", "not_run")), None)

    @property
    def state(self) -> str:
        """The worst state."""
        return min(self.states.values(), key=STATES.index)

    @property
    def out(self) -> bool:
        """Whether the process takes no part in later phases."""
        return any(state in OUT for state in self.states.values()) or self.states["start"] not in ("pass", "different")

    @property
    def kind(self) -> str:
        """The kind of its devices; empty if it is not known."""
        return next((str(device["kind"]) for device in self.live.get("devices", ())), "")

    @property
    def title(self) -> str:
        """Its number and the name of its host."""
        return f"process {self.process} ({self.name or 'host unknown'})"

    def describe(self) -> str:
        """What is wrong, in one line."""
        phase = self.phase
        if phase is None:
            return ""
        return f"{self.title}: {phase}: {self.messages.get(phase) or self.states[phase]}"

    def to_json(self) -> dict[str, Any]:
        """The entry of this process in `report.json`, at most 4 KB."""
        devices = self.live.get("devices", [])
        message = self.messages.get(self.phase or "", "")
        return {
            "process": self.process, "host": self.name, "devices": len(devices),
            "kind": self.kind, "status": self.state, "phase": self.phase,
            "states": self.states, "message": message.encode()[:MESSAGE].decode(errors="ignore"), "stack": self.stack,
            "checks": self.checks, "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "environment": digest(compared(self)) if self.facts else "",
        }  # fmt: skip


def compared(host: Host) -> dict[str, Any]:
    """The parts of a host's environment that must be the same on all hosts, by name."""
    facts, devices = host.facts, host.live.get("devices", [])
    parts = {"devices": len(devices), "kind": devices[0]["kind"] if devices else None} if devices else {}
    parts |= {f"config.{name}": value for name, value in host.live.get("config", {}).items()}
    for kind in ("versions", "drivers", "variables"):
        parts |= {f"{kind}.{name}": value for name, value in facts.get(kind, {}).items() if name not in OWN_VARIABLES}
    system = facts.get("machine", {}).get("system")
    return parts | ({"system": system} if system else {})


def digest(value: Any) -> str:
    """The first 12 characters of the SHA-256 of a value for JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def differences(hosts: Sequence[Host]) -> list[dict[str, Any]]:
    """What differs between hosts: {name, values: [{value, processes}], level}, the value of most hosts first."""
    environments = {host.process: compared(host) for host in hosts if host.facts}
    found = []
    for name in sorted({name for environment in environments.values() for name in environment}):
        values: dict[str, list[int]] = {}
        for process, environment in environments.items():
            if name in environment or not name.startswith(("devices", "kind", "config.")):
                values.setdefault(str(environment.get(name, "not set")), []).append(process)
        if len(values) > 1:
            found.append(_difference(name, values))
    clocks = {host.process: host.facts["offset"] for host in hosts if abs(host.facts.get("offset", 0.0)) > CLOCK}
    if clocks:
        rest = [process for process in environments if process not in clocks]
        values = {"as process 0's": rest} | {f"{offset:+.0f} s": [process] for process, offset in clocks.items()}
        found.append(_difference("clock", values))
    return found


def _difference(name: str, values: Mapping[str, Collection[int]]) -> dict[str, Any]:
    order = sorted(values.items(), key=lambda item: -len(item[1]))
    plugin = name.startswith("versions.") and ("plugin" in name or "pjrt" in name)
    level = "broken" if name.startswith(BROKEN) or plugin else "warning"
    shown = [{"value": value[:200], "processes": ranges(processes)} for value, processes in order]
    return {"name": name, "values": shown, "level": level}


def minority(difference: Mapping[str, Any]) -> list[int]:
    """The processes whose value is not that of most; empty if two values are equally frequent."""
    first, *others = [numbers(value["processes"]) for value in difference["values"]]
    if len(first) == max(map(len, others)):
        return []
    return sorted(process for other in others for process in other)


def ranges(processes: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    parts: list[list[int]] = []
    for process in sorted(processes):
        if parts and process == parts[-1][-1] + 1:
            parts[-1].append(process)
        else:
            parts.append([process])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def numbers(text: str) -> list[int]:
    """The inverse of `ranges`."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
