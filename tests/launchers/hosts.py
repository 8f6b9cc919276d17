"""Hosts of a cluster on one machine: network namespaces with a name and an address each, behind one bridge.

All of them belong to one process namespace, so ending its first process ends everything that runs in the cluster.
Nothing is changed outside: names are resolved by a hosts file that only these namespaces see. Needs root and Linux.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS_TO_START = 60.0
# `$1`: a folder; `$2`: the number of hosts. The network namespace of this script has the bridge.
SETUP = r"""
set -eu
mount --bind "$1/hosts" /etc/hosts
ip link set lo up
ip link add bridge0 type bridge
ip link set bridge0 up
for i in $(seq 0 $(($2 - 1))); do
  unshare --net --uts --mount sleep infinity &
  pid=$!
  until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] \
    && [ "$(readlink /proc/$pid/ns/uts)" != "$(readlink /proc/self/ns/uts)" ]; do sleep 0.01; done
  ip link add "v$i" type veth peer name eth0 netns "$pid"
  ip link set "v$i" master bridge0 up
  nsenter --target="$pid" --net --uts sh -eu -c \
    "hostname h$i; ip link set lo up; ip addr add 10.77.0.$((i + 1))/24 dev eth0; ip link set eth0 up"
  echo "$pid" > "$1/pid-h$i"
done
touch "$1/ready"
exec sleep infinity
"""
# Runs a command on a host, from inside the cluster: `on HOST WORDS...`.
ON = '#!/bin/sh\nhost=$1; shift\nexec nsenter --target="$(cat {folder}/pid-$host)" --net --uts --mount -- "$@"\n'
# The same for a command that a shell must read, as `ssh HOST WORDS...` does.
AGENT = '#!/bin/sh\nhost=$1; shift\nexec {folder}/on "$host" sh -c "$*"\n'


def unavailable() -> str:
    """Why this machine cannot make such hosts; empty if it can."""
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (packages iproute2, util-linux)"
    words = ["unshare", "--fork", "--pid", "--kill-child", "--mount-proc", "--net", "ip", "link", "add", "x", "type"]
    tried = subprocess.run([*words, "bridge"], capture_output=True, text=True, check=False)
    return f"no network namespaces here ({tried.stderr.strip()}); this needs root" if tried.returncode else ""


@dataclass(frozen=True)
class Hosts:
    """Running hosts, named h0, h1 and so on.

    Attributes:
        folder: a folder that all hosts see, with a short path.
        names: the hosts' names; their addresses are 10.77.0.1, 10.77.0.2 and so on.
        first: the process id of the first process of the cluster, as seen from outside.
    """

    folder: Path
    names: Sequence[str]
    first: int

    def on(self, host: str, *words: str) -> list[str]:
        """The command that runs `words` on a host."""
        enter = ["nsenter", f"--target={self.first}", "--pid", "--mount", "--net", "--"]
        return [*enter, str(self.folder / "on"), host, *words]

    def run(self, host: str, *words: str, timeout: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and wait for its end."""
        with self.started(host, *words, **variables) as process:
            output = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(words, process.returncode, *output)

    @contextlib.contextmanager
    def started(self, host: str, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command on a host; its process group is killed at the end of the `with` block."""
        process = popen(self.on(host, *words), env=os.environ | variables)
        with killed_at_last(process):
            yield process

    def link(self, host: str, state: str) -> None:
        """Set the link between a host and the bridge `up` or `down`."""
        enter = ["nsenter", f"--target={self.first}", "--net", "--"]
        subprocess.run([*enter, "ip", "link", "set", f"v{self.names.index(host)}", state], check=True)


def popen(words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, with pipes for its output."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(words, text=True, env=env, start_new_session=True, **pipes)


@contextlib.contextmanager
def killed_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the process group of `process` at the end of the `with` block."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Any, what: str, seconds: float = SECONDS_TO_START) -> None:
    """Wait until `condition()` is true; TimeoutError, with `what` did not happen, after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def hosts(count: int, folder: Path) -> Iterator[Hosts]:
    """Make `count` hosts, and end them, with all their processes, at the end of the `with` block.

    Args:
        count: the number of hosts, at most 250.
        folder: an empty folder with a short path (a socket's path has at most 108 characters).
    """
    names = [f"h{i}" for i in range(count)]
    lines = ["127.0.0.1 localhost", *(f"10.77.0.{i + 1} {name}" for i, name in enumerate(names))]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    for name, text in (("on", ON), ("agent", AGENT)):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    words = ["unshare", "--fork", "--pid", "--kill-child", "--mount-proc", "--net", "bash", "-c", SETUP, "setup"]
    with (folder / "setup.log").open("w") as log:
        cluster = popen([*words, str(folder), str(count)], stdout=log, stderr=log)
    with killed_at_last(cluster):
        until(lambda: (folder / "ready").exists() or cluster.poll() is not None, "the network namespaces")
        if cluster.poll() is not None:
            raise RuntimeError(f"the network namespaces: {(folder / 'setup.log').read_text()}")
        [first] = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split()
        yield Hosts(folder, names, int(first))
