"""A copy of the kit whose laws pass, fail, hang or crash as a test needs.

The copy runs in real processes, as a user would run it. Its JAX is a stand-in, so that a process starts in half a
second: these tests are not about checks, but about the processes, reports and options around them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftref.conformance.machine.remedies import remedies

KIT = Path(__file__).parents[2] / "conformance"
DEADLINE = 2.5
# Fate (what the check will do) -> the body of the check. `check` is the Check, `A` an array.
FATES = {
    "passes": "check.equal('a', A, A)",
    "measures": "check.facts['ratio'] = np.float32('nan'); check.close('a', A + 1e-3, A, Bound(1e-2, 1e-3, 'by hand'))",
    "differs": "check.equal('a', A + 1, A)",
    "raises": "raise RuntimeError('boom \\x1b[31m')",
    "compares_nothing": "pass",
    "needs_more": "check.need(False, 'needs 2 devices, found 1')",
    "is_not_claimed": "check.need_capability('gradients', ())",
    "disagrees": "os.write(2, b'E0000 Results mismatch between two kernels\\n'); check.equal('a', A, A)",
    "sleeps": "time.sleep(60)",
    "holds_the_gil": "[ctypes.PyDLL(None).sleep(60) for _ in range(60)]",
    "segfaults": "ctypes.string_at(0)",
    "exits": "os._exit(7)",
    "aborts": "os.write(2, b'F0000 rendezvous of 8 threads failed\\n'); os.abort()",
    "waits": "Path(os.environ['SFTREF_FLAG']).touch(); time.sleep(60)",
}
# Not in FATES, because this body needs the file `expected`.
COMPILES = {"compiles": "check.close('a', A + compiled(), A, Bound(1e-2, 1e-3, 'by hand'))"}
# Laws of trainers, which call one.
CALLS = {
    "steps": "subject.start(MAIN, {}, 1); subject.step(None); check.equal('a', A, A)",
    "starts": "subject.start(MAIN, {}, 1); check.equal('a', A, A)",
    "starves": "os.write(2, b'terminate: std::bad_alloc\\n'); os.abort()",
    "exhausts": "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 GiB')",
}
# Failures that a setting fixes, and an intermittent one.
MENDED = {
    "needs_light": "check.equal('a', A + ('fusion_emitters=false' not in os.environ.get('XLA_FLAGS', '')), A)",
    "needs_simple": "check.equal('a', A + (os.environ.get('NCCL_PROTO') != 'Simple'), A)",
    "needs_plain": "check.equal('a', A + ('fast_math' in os.environ.get('XLA_FLAGS', '')), A)",
    "hates_simple": "check.equal('a', A + (os.environ.get('NCCL_PROTO') == 'Simple'), A)",
    "hangs_in_graphs": "'command_buffer=' in os.environ.get('XLA_FLAGS', '') or time.sleep(60); check.equal('a', A, A)",
    "comes_and_goes": ("p = Path('run_before'); first = not p.exists(); p.touch(); check.equal('a', A + first, A)"),
    "knows_no_flag": (
        "'command_buffer' in os.environ.get('XLA_FLAGS', '') and (os.write(2, b'Unknown flag in XLA_FLAGS: --xla\\n'), "
        "os.abort()); check.equal('a', A + 1, A)"
    ),
}
HEAD = """
import ctypes, os, time
from pathlib import Path
import numpy as np, pytest
from ...core.comparison import Bound
from ...oracle.cases import MAIN
A = np.arange(8, dtype=np.float32)


def compiled():
    expected = Path("expected").read_text()
    program = Path(os.environ["JAX_COMPILATION_CACHE_DIR"], f"program-{expected}")
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(expected)
        print("compiled", file=Path("compilations").open("a"))
    return float(program.read_text()) if program.read_text() != "hangs" else time.sleep(60)
"""
CHECK = """
@pytest.mark.law("{id}")
def test_{name}({arguments}):
    {body}
"""
ENTRY = """
[[law]]
id = "{id}"
rung = {rung}
per = "{per}"
deadline = {deadline}
requirement = "It MUST be so."
catches = ["this"]
cause = "The cause."
next_step = "The next step."
"""
STAND_IN = """
import sys
from types import SimpleNamespace as Some
class Config:
    jax_platforms = None
    values = property(lambda self: dict(vars(self)))
    def __init__(self):
        self.jax_disable_most_optimizations = False
    def update(self, name, value):
        setattr(self, name, value)
class Client:
    platform_version = "stand-in"
class Device:
    platform, device_kind, client = "cpu", "stand-in", Client()
    def __init__(self, id):
        self.id = id
class monitoring:
    register_event_duration_secs_listener = staticmethod(lambda heard: heard("/jax/core/compile/x", 1.0))
config, __version__ = Config(), "0.10.2"
empty = Some(empty=True)
sharding = Some(Mesh=lambda *_: None, get_abstract_mesh=lambda: empty)
sys.modules["jax._src.mesh"] = Some(thread_resources=Some(env=Some(physical_mesh=empty)))
def devices():
    return [Device(i) for i in range(config.jax_num_cpu_devices)]
"""
ADAPTER = """
class Trainer:
    name, capabilities = "a stand-in", frozenset({"padding rows", "replicas"})
    start = step = evaluate = params = replicas = lambda self, *_: None
"""


@dataclass
class Ended:
    """The result of a command that has ended, with its report."""

    code: int
    out: str
    err: str
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def statuses(self) -> dict[str, str]:
        return {check["id"]: check["status"] for check in self.report["checks"]}

    def check(self, name: str) -> dict[str, Any]:
        return next(check for check in self.report["checks"] if check["id"] == name)

    @property
    def verdict(self) -> str:
        return self.out.strip().splitlines()[-1]


class Copy:
    """A folder with a copy of the kit, and laws for one test.

    Args:
        folder: the folder of the copy, which is created.
        ladder: (rung, fate) of each law, in order; a fate is a name in `FATES`; a suffix, as in `passes-2`, makes one
            more law with the same body. The id is `r3.fate`; from rung 6 on the laws are those of trainers.
        deadline: the deadline of each check.
        tries: whether failed checks are rerun with other settings.
    """

    def __init__(
        self, folder: Path, ladder: list[tuple[int, str]], deadline: float = DEADLINE, tries: bool = False
    ) -> None:
        self.tries = tries
        self.folder, self.kit = folder, folder / "conformance"
        # File times are copied too, so that bytecode stays valid.
        ignore = shutil.ignore_patterns("test_[0-9]*", ".*")
        shutil.copytree(KIT, self.kit, ignore=ignore)
        (folder / "jax").mkdir()
        (folder / "jax" / "__init__.py").write_text(STAND_IN)
        (folder / "stand_in.py").write_text(ADAPTER)
        entries: dict[int, str] = {}
        files: dict[int, str] = {}
        for rung, fate in ladder:
            per = "subject" if rung >= 6 else "machine"
            entry = ENTRY.format(id=f"r{rung}.{fate}", rung=rung, per=per, deadline=deadline)
            entries[rung] = entries.get(rung, "") + entry
            files[rung] = files.get(rung, HEAD) + CHECK.format(
                id=f"r{rung}.{fate}",
                name=fate.replace("-", "_"),
                arguments="check, subject" if per == "subject" else "check",
                body=(FATES | CALLS | COMPILES | MENDED)[fate.partition("-")[0]],
            )
        for rung, text in files.items():
            (self.kit / "laws" / "machine" / f"test_{rung}_fates.py").write_text(text)
            (self.kit / "laws" / "machine" / f"test_{rung}_fates.toml").write_text(entries[rung])

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace `old`, a regular expression, by `new` in a file of the copy."""
        path = self.kit / name
        text = path.read_text()
        assert re.search(old, text), f"{name} has no {old}"
        path.write_text(re.sub(old, new, text))

    def on(self, platform: str, maker: str, devices: int = 2) -> Copy:
        """Use stand-ins for devices of another platform; returns this copy."""
        text = STAND_IN.replace(
            'platform, device_kind, client = "cpu"', f'platform, device_kind, client = "{platform}"'
        )
        text = text.replace('platform_version = "stand-in"', f'platform_version = "{maker}"')
        text = text.replace("range(config.jax_num_cpu_devices)", f"range({devices})")
        (self.folder / "jax" / "__init__.py").write_text(text)
        return self

    def environment(self) -> dict[str, str]:
        # Variables of the user are removed: the kit would try without them after a failure. The user's pytest options
        # must have no effect.
        own = [remedy.without for remedy in remedies(["cpu"], 0, ["fail"], os.environ, 1)]
        kept = {name: value for name, value in os.environ.items() if name not in own}
        return kept | {"PYTHONUNBUFFERED": "1", "PYTEST_ADDOPTS": "--nonsense", "COLUMNS": "200"}

    def start(self, *arguments: str, before: str = "", **more: Any) -> subprocess.Popen[str]:
        """Start `python -m conformance verify`; the shell command `before` runs first."""
        # A test in the background inherits an ignored SIGINT; a user at a terminal does not.
        code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "runpy.run_module('conformance', run_name='__main__', alter_sys=True)"
        words = [sys.executable, "-c", code, "verify", "--adapter", "stand_in:Trainer", *arguments]
        words += [] if "--against" in arguments else ["--against", "stand_in:Trainer"]
        words += [] if self.tries else ["--no-remedies"]
        return subprocess.Popen(
            ["sh", "-c", f'{before} exec "$@"', "sh", *words], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment() | more,
        )  # fmt: skip

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        out, err = process.communicate(timeout=120)
        path = self.folder / "sftref-report" / "report.json"
        return Ended(process.returncode, out, err, json.loads(path.read_text()) if path.exists() else {})

    def verify(self, *arguments: str, **more: Any) -> Ended:
        return self.ended(self.start(*arguments, **more))

    def pytest(self, *arguments: str) -> Ended:
        """Run pytest on the copy."""
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:sftref.pytest_plugin", *arguments]
        variables = self.environment() | {"PYTEST_ADDOPTS": ""}
        completed = subprocess.run(
            [*words, "--sftref-adapter", "stand_in:Trainer", "--sftref-against", "stand_in:Trainer", "conformance"],
            cwd=self.folder, text=True, capture_output=True, env=variables, timeout=120, check=False,
        )  # fmt: skip
        return Ended(completed.returncode, completed.stdout, completed.stderr)
