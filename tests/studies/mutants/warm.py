"""Requests on stdin -> results on stdout: laws of trainers, run on a mutant, in a fork of this process.

This process has imported the libraries, but not the package, and has started no backend of JAX, so it can fork. The
fork imports the package from an overlay: links to its files, except for the mutated one. Laws that start processes of
their own pass the overlay on to them.

A request is a JSON object: the fields of `Request`. The answers are JSON objects, one for each law that has run, and
`{"law": null, "cpu": ...}` at the end, with the processor seconds of the fork and of the processes that it waited for.
A mutant that ends its process has the status `crash`, one that exceeds a law's deadline `hang`, one that cannot be
imported `import`.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

# In JAX 0.10, XLA's older code generator compiles in half the processor time; see `tests/conftest.py`.
LIGHT = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
# Kinds of status that end the run of a mutant.
KILLED = ("fail", "error", "hang", "crash", "import")
# Seconds to import the package and start JAX; seconds that are added to each deadline.
IMPORTING, GRACE = 60.0, 60.0
# A law on a mutant may take this many times its seconds on the right trainer: an endless mutant takes more.
SLOWER = 10.0
# The most bytes of memory, so that a mutant with a huge array raises an error.
MEMORY = 12 * 2**30


@dataclasses.dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        package: the folder of the package `sftref`, with the kit in it.
        adapter: the trainer under test: module in the kit's `adapters`, a colon, factory.
        level: quick, standard or full.
        file: the mutated file, as a path in the package; None for the right trainer.
        text: its source.
        order: ids of laws, those to run first; the others follow, from the lowest rung up.
        only: ids of the laws to run; all laws of trainers if it is empty.
        seconds: law -> its seconds on the right trainer; with `{}` a law's own deadline applies.
        whole: whether the laws after the first failure run too.
        coverage: whether to report the lines that were executed, under `executed`.
    """

    package: str
    adapter: str
    level: str
    file: str | None = None
    text: str | None = None
    order: Sequence[str] = ()
    only: Sequence[str] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    whole: bool = False
    coverage: bool = False


class Warm:
    """The process, as its caller sees it. A context manager.

    Args:
        folder: where compiled programs and the output of mutants are kept.
    """

    def __init__(self, folder: Path) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        programs = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"), "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip
        # As in the tests, programs are compiled without XLA's optimizations: that takes half the time.
        jax = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        if importlib.metadata.version("jax").startswith("0.10."):
            jax["XLA_FLAGS"] = " ".join([*LIGHT, os.environ.get("XLA_FLAGS", "")]).strip()
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        folder.mkdir(parents=True, exist_ok=True)
        self.cpu = 0.0  # processor seconds of all requests so far
        self._output = (folder / "output.txt").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
            text=True, env=os.environ | one | programs | jax | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def run(self, request: Request) -> Iterator[dict[str, Any]]:
        """The results of laws: law, status, message, seconds. A RuntimeError if this process itself ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(request)) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            event = json.loads(line)
            if event["law"] is None:
                self.cpu += event["cpu"]
                return
            yield event
        raise RuntimeError(f"the process that runs mutants has ended; its output is in {self._output.name}")

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._output.close()


def overlay(package: Path, folder: Path, file: str | None, text: str | None) -> None:
    """Make `folder`/sftref: links to the files of the package, and `text` as its `file`."""
    inner, here = Path(file or "__init__.py"), folder / "sftref"
    source = package
    for part in (*inner.parts[:-1], None):
        here.mkdir()
        for path in source.iterdir():
            if path.name != part and (part is not None or path.name != inner.name or text is None):
                (here / path.name).symlink_to(path)
        if part is not None:
            source, here = source / part, here / part
    if text is not None:
        (here / inner.name).write_text(text, encoding="utf-8")


def trial(request: Request, folder: Path, events: IO[str]) -> None:
    """Run the laws in this process, and write an event before and after each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    sys.path.insert(0, str(folder))

    def write(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    tracer: Any = contextlib.nullcontext()
    if request.coverage:
        import coverage

        tracer = coverage.Coverage(data_file=None, include=[f"{request.package}/*"])
        tracer.start()
    adapter = f"sftref.conformance.adapters.{request.adapter}"
    write(law="import", limit=IMPORTING)
    began = time.monotonic()
    try:
        from sftref.conformance.adapter import load_adapter
        from sftref.conformance.core.law import laws
        from sftref.conformance.core.settings import Settings, start_jax
        from sftref.conformance.faults.trial import run_law

        settings = Settings(level=request.level, platform="cpu", adapters=(adapter,))
        start_jax(settings)
        load_adapter(adapter)
    except Exception as error:
        write(law="import", status="import", message=f"{type(error).__name__}: {error}", seconds=0.0)
        return
    write(law="import", status="pass", message="", seconds=time.monotonic() - began)
    place = {law: number for number, law in enumerate(request.order)}
    own = [law for law in laws().values() if law.per == "subject" and law.runs_at(request.level, None)]
    own = [law for law in own if not request.only or law.id in request.only]
    for law in sorted(own, key=lambda law: place.get(law.id, len(place))):
        known = request.seconds.get(law.id)
        limit = law.deadline if known is None else SLOWER * known
        write(law=law.id, limit=limit + GRACE)
        began = time.monotonic()
        values = {"subject": load_adapter(adapter), "adapter": adapter}
        result = run_law(law, values, settings)
        write(law=law.id, status=result.status, message=result.message[:500], seconds=time.monotonic() - began)
        if result.status in KILLED and not request.whole:
            return
    if request.coverage:
        tracer.stop()
        data, top = tracer.get_data(), Path(request.package)
        lines = {str(Path(f).relative_to(top)): sorted(data.lines(f)) for f in data.measured_files()}
        write(law="executed", status="pass", message="", seconds=0.0, executed=lines)


def watched(request: Request, output: IO[str]) -> float:
    """Fork, run the laws there, and pass their results on, with a result for a fork that hangs or ends.

    Returns the processor seconds of the fork.
    """
    reads, writes = os.pipe()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        overlay(Path(request.package), folder, request.file, request.text)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setsid()
                os.environ["TMPDIR"] = tempfile.tempdir = name
                trial(request, folder, os.fdopen(writes, "w", encoding="utf-8"))
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        try:
            for event in _events(reads):
                output.write(json.dumps(event) + "\n")
                output.flush()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            os.close(reads)
    return usage.ru_utime + usage.ru_stime


def _events(reads: int) -> Iterator[dict[str, Any]]:
    law, limit, waiting = "import", IMPORTING, b""
    began = time.monotonic()
    while True:
        left = limit - (time.monotonic() - began)
        ready = bool(select.select([reads], [], [], max(left, 0.0))[0])
        read = os.read(reads, 1 << 16) if ready else b""
        if not read:
            if law is not None:
                words = "the process ended" if ready else f"no result after {limit:.0f} s"
                status = "crash" if ready else "hang"
                yield {"law": law, "status": status, "message": words, "seconds": time.monotonic() - began}
            return
        *lines, waiting = (waiting + read).split(b"\n")
        for event in map(json.loads, lines):
            if "status" in event:
                law, limit = None, GRACE
                yield event
            else:
                law, limit = event["law"], event["limit"]
            began = time.monotonic()


def main() -> None:
    """Import the libraries, and answer requests until stdin ends."""
    import flax.linen  # noqa: F401
    import hypothesis  # noqa: F401
    import jax  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a mutant prints is no answer
    for line in sys.stdin:
        cpu = watched(Request(**json.loads(line)), answers)
        answers.write(json.dumps({"law": None, "cpu": cpu}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
