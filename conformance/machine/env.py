"""`sftref env`: this machine, this installation and how JAX starts here, as a block to paste or as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any

from ..core.settings import Settings
from . import snapshot
from .findings import Finding, findings, present
from .host import Host, facts
from .startup import CRASH, HANG, READY, start


def gather(settings: Settings, host: Host, tell: Callable[[str], None], *, starts: bool) -> dict[str, Any]:
    """All there is to tell, in JSON's own values."""
    static = snapshot.static(host.variables)
    about = facts(host)
    found = findings(about, static["versions"], host.variables)
    began = start(settings, tell, host.variables) if starts else None
    return {
        "schema": "sftref.env/1",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **static,
        "host": about,
        "findings": [finding.to_json() for finding in found],
        "start": None if began is None else {**vars(began), "line": began.line},
    }


def exit_code(content: dict[str, Any]) -> int:
    """0 fine, 1 something is broken, 3 JAX hangs or crashes when it starts."""
    began = content["start"]
    if began is not None and began["how"] in (HANG, CRASH):
        return 3
    broken = any(finding["level"] == "broken" for finding in content["findings"])
    return int(broken or (began is not None and began["how"] != READY))


def block(content: dict[str, Any]) -> Iterator[str]:
    """Markdown, ready for a bug report."""
    host, versions = content["host"], content["versions"]
    yield f"### sftref env, {content['time']}"
    yield ""
    where = f", in a {host['container']} container" if host["container"] else ""
    yield f"- system: {host['system']}, kernel {host['kernel']}{where}, {content['machine']['cores']} cores"
    if host["kernel_words"]:
        yield f"- kernel command line: `{' '.join(host['kernel_words'])}`"
    shm = "none" if host["shm_bytes"] is None else f"{host['shm_bytes'] / 2**20:,.0f} MiB"
    yield f"- user: number {host['user']}, groups {', '.join(host['groups'])}; /dev/shm: {shm}"
    yield f"- accelerators: {', '.join(f'{n} x {vendor}' for vendor, n in present(host).items()) or 'none seen'}"
    for files in host["device_files"].values():
        for file in files:
            mine = "" if file["usable"] else ", **not yours to use**"
            yield f"  - `{file['path']}` {file['mode']}, group {file['group']}{mine}"
    for title, values in (("drivers", host["drivers"]), ("runtimes", host["runtimes"])):
        if values:
            yield f"- {title}: {', '.join(f'{name} {value or chr(63)}' for name, value in values.items())}"
    for tool, lines in host["tools"].items():
        yield f"- {tool}: {'; '.join(lines)}"
    yield f"- Python {versions['python']}: {', '.join(f'{n} {v}' for n, v in versions.items() if n != 'python')}"
    if content["variables"]:
        yield "- variables:"
        yield from (f"  - `{name}={value}`" for name, value in content["variables"].items())
    if content["start"] is not None:
        yield f"- {content['start']['line']}"
        live = content["start"]["live"]
        if live:
            kinds = [device["kind"] for device in live["devices"]]
            names = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
            said = "simulated " if live["simulated"] else ""
            yield f"  - {said}devices: {names} ({' '.join(live['platform_version'].split())})"
        elif content["start"]["stderr"]:
            yield from ("  - its log ends:", "", *(f"        {line}" for line in content["start"]["stderr"]), "")
    yield ""
    yield from told([Finding(**finding) for finding in content["findings"]])


def told(found: list[Finding]) -> Iterator[str]:
    """Findings for a person, the worst first."""
    if not found:
        yield "Nothing is known to be wrong with it."
    for finding in found:
        yield f"- **{finding.level}**: {finding.what}"
        yield f"  - why: {finding.why}"
        yield f"  - next: {finding.next}"
        yield f"  - see: {finding.source}"
