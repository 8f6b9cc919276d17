"""`sftref env`: the machine, the installation, and a start of JAX, as Markdown for a bug report or as JSON."""

import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..core.settings import Settings
from . import rocm, snapshot
from .findings import findings
from .host import Host, facts, present
from .startup import CRASH, HANG, READY, start

# Seconds of silence after which a line says what is running.
EVERY = 10.0


class Progress:
    """Reports a wait on stderr, at most every ten seconds."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = self.printed = time.monotonic()

    def __call__(self, phase: str) -> None:
        """Called often, with the phase that is running."""
        now = time.monotonic()
        if now - self.printed > EVERY:
            self.printed = now
            print(f"   {now - self.began:.0f} s: {self.what}: {phase}", file=sys.stderr, flush=True)


def gather(settings: Settings, host: Host, tell: Callable[[str], None], *, starts: bool) -> dict[str, Any]:
    """The facts and problems of a machine and, if `starts`, how JAX starts on it, as a dict for JSON.

    `settings` says on which platform and devices JAX starts; `tell` gets the current phase several times a second.
    """
    static = snapshot.static(host.variables)
    about = facts(host)
    problems = findings(about, static["versions"], host.variables, settings.platform)
    if used := rocm.in_use(about["rocm"], static["versions"]):
        about["runtimes"]["rocm"] = used["version"]
    started = start(settings, tell, host.variables) if starts else None
    return {
        "schema": "sftref.env/1",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **static,
        "host": about,
        "findings": [vars(finding) for finding in problems],
        "start": None if started is None else {**vars(started), "line": started.line},
    }


def exit_code(content: dict[str, Any]) -> int:
    """0 without problems, 1 if something is broken, 3 if JAX hangs or crashes at its start."""
    how = READY if content["start"] is None else content["start"]["how"]
    if how in (HANG, CRASH):
        return 3
    return int(how != READY or any(finding["level"] == "broken" for finding in content["findings"]))


def block(content: dict[str, Any]) -> Iterator[str]:
    """The dict of `gather` -> lines of Markdown for a bug report."""
    host, versions = content["host"], content["versions"]
    yield f"### sftref env, {content['time']}"
    yield ""
    where = f", in a {host['container']} container" if host["container"] else ""
    yield f"- system: {host['system']}, kernel {host['kernel']}{where}, {content['machine']['cores']} cores"
    if host["kernel_words"]:
        yield f"- kernel command line: `{' '.join(host['kernel_words'])}`"
    shm = "none" if host["shm_bytes"] is None else f"{host['shm_bytes'] / 2**20:,.0f} MiB"
    yield f"- user: number {host['user']}, groups {', '.join(host['groups'])}; /dev/shm: {shm}"
    gfx = ", ".join(dict.fromkeys(host["gfx"]))
    yield f"- accelerators: {', '.join(f'{n} x {vendor}' for vendor, n in present(host).items()) or 'none'}" + (
        f" ({gfx})" if gfx else ""
    )
    for files in host["device_files"].values():
        for file in files:
            access = "" if file["usable"] else ", **no read/write access**"
            yield f"  - `{file['path']}` {file['mode']}, group {file['group']}{access}"
    for title, values in (("drivers", host["drivers"]), ("runtimes", host["runtimes"])):
        if values:
            yield f"- {title}: {', '.join(f'{name} {value or chr(63)}' for name, value in values.items())}"
    if len(host["rocm"]) > 1:
        places = [f"{each['version']} in {each['place']}" for each in host["rocm"]]
        yield f"- ROCm: {', '.join(places)}"
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
            kind = "simulated devices" if live["simulated"] else "devices"
            yield f"  - {kind}: {names} ({' '.join(live['platform_version'].split())})"
        elif content["start"]["stderr"]:
            yield from ("  - end of its log:", "", *(f"        {line}" for line in content["start"]["stderr"]), "")
    yield ""
    if not content["findings"]:
        yield "No known problem."
    for finding in content["findings"]:
        yield f"- **{finding['level']}**: {finding['what']}"
        yield f"  - why: {finding['why']}"
        yield f"  - next: {finding['next']}"
        yield f"  - see: {finding['source']}"
