"""The folder of a report: tested and locked before the run, and the files after the run."""

import argparse
import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

PROBE_BYTES = 1 << 18
LOCK = ".lock"


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line, without the usage of twenty lines that argparse prints before it."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(2, f"sftref: {' '.join(message.splitlines())}; see {self.prog} --help\n")


def utf8(text: str) -> str:
    """An argument that names a file or a folder; an ArgumentTypeError if it is empty, or no UTF-8 as libraries need."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; is the variable set that it was to come from?")
    if any("\ud800" <= character <= "\udfff" for character in text):
        # Python reads bytes that the encoding of the locale lacks as surrogates, which no native library takes.
        encoding, shown = sys.getfilesystemencoding(), ascii(os.fsencode(text))[1:]
        way = "choose another name" if encoding == "utf-8" else "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        raise argparse.ArgumentTypeError(f"{shown} is not in the encoding {encoding}; {way}")
    return text


def path(text: str) -> Path:
    """An argument that names a file or a folder, with its `~`, which a shell leaves alone in `--out=~/runs`."""
    return Path(os.path.expanduser(utf8(text)))


@contextlib.contextmanager
def prepared(out: Path) -> Iterator[None]:
    """Make the folder, and hold its lock in the block; a ValueError says why no report can be written to it."""
    prepare(out)
    with (out / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--out {out}: another run writes to this folder; choose another folder") from None
        except OSError:  # a file system without locks
            pass
        yield


def prepare(out: Path) -> None:
    """Make the folder; a ValueError says why no report can be written to it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file, must be a folder; choose another name")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe(out)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--out {out}: cannot be written ({reason}); free some space, or choose another") from error


def probe(folder: Path) -> None:
    """Write and delete a file in the folder, which raises an OSError if it is full or read-only."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())


def write(out: Path, texts: Mapping[str, str]) -> None:
    """Write each text to the file of its name, completely or not at all; an OSError if a file cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        part = out / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)
