"""--out -> the folder of a run's records: new, writable, and locked against a second run; --save, tried beforehand."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from sftref.config import ConfigError, TrainConfig, require
from sftref.train.checkpoint import FOLDER
from sftref.train.records import METRICS, SUMMARY

CONFIG = "config.json"
RECORDS = (CONFIG, METRICS, SUMMARY, "evaluation.json", FOLDER)
LOCK = ".lock"


def new_folder(out: Path | None, config: TrainConfig, *, overwrite: bool) -> Path:
    """Make a folder for the records of a new run, by default the next free runs/TASK-TRAINER-N.

    Raises:
        ConfigError: the folder has another run's records, is a file, or cannot be written.
    """
    if out is None:
        return _next_folder(f"{config.task}-{config.trainer}")
    require(not out.exists() or out.is_dir(), f"--out {out}: is a file, must be a folder; choose another name")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error
    old = [name for name in RECORDS if (out / name).exists()]
    require(
        not old or overwrite,
        f"--out {out}: has {', '.join(old)} of an earlier run; choose another folder, or add --overwrite",
    )
    return out


def _next_folder(name: str) -> Path:
    for k in itertools.count(1):
        path = Path("runs", f"{name}-{k}")
        try:
            path.parent.mkdir(exist_ok=True)
            path.mkdir()
        except FileExistsError:  # of an earlier run, or of one that has just begun
            require(path.parent.is_dir(), f"{path.parent}: is a file, must be a folder; give --out DIR")
            continue
        except OSError as error:
            raise ConfigError(f"{path}: cannot be made ({error.strerror}); give --out DIR") from error
        break
    return path


@contextmanager
def locked(out: Path | None, option: str = "--out") -> Iterator[None]:
    """Hold the lock of a run's folder; the kernel releases it when the process ends. Does nothing for None.

    Raises:
        ConfigError: another run writes to this folder.
    """
    if out is None:
        yield
        return
    lock = filelock.FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigError(
            f"{option} {out}: another run writes to this folder; wait for its end, or choose another folder"
        ) from error
    except (OSError, NotImplementedError):  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()


def clear(out: Path) -> None:
    """Delete the records of an earlier run that a new run does not replace when it begins."""
    for name in (SUMMARY, "evaluation.json", "curves.png"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def check_save(save: Path, out: Path) -> None:
    """Check, before training, that the model's folder is not that of the records, and that it can be made.

    Raises:
        ConfigError: `save` is `out` or contains it, or cannot be written.
    """
    same = save.resolve() == out.resolve()
    require(
        not same and save.resolve() not in out.resolve().parents,
        f"--save {save}: {'is' if same else 'contains'} the folder of the records, --out {out}; a model needs a folder "
        f"of its own, as --save {out / 'model'}",
    )
    existing = next(path for path in (save.absolute().parent, *save.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(f"--save {save}: cannot be written ({error.strerror}); choose another folder") from error
