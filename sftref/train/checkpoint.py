"""State on the host <-> Orbax checkpoints, which do not depend on devices: any trainer can continue any run."""

import atexit
import contextlib
import errno
import logging
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sftref.config import ConfigError, one_line, require
from sftref.train.step import TrainState

FOLDER = "checkpoints"
# The name of our checksums, which detect a flipped bit in a checkpoint; Orbax does not.
SUMS = "crc32"
KEEP = 2


def latest(folder: Path) -> int | None:
    """The step of the newest finished checkpoint of the run in `folder`; None if there is none."""
    steps = [int(path.name) for path in (folder / FOLDER).glob("*") if path.name.isdecimal() and path.is_dir()]
    return max(steps, default=None)


class Checkpoints:
    """The two newest checkpoints of one run, in `folder`/checkpoints/STEP.

    Orbax writes to a temporary folder and renames it at the end, so an interrupted save keeps the last good checkpoint.

    Args:
        folder: the run's output folder.
        must_exist: whether it is an error if there is no checkpoint.

    Raises:
        ConfigError: `must_exist` is true, and there is no checkpoint.
    """

    def __init__(self, folder: Path, *, must_exist: bool = False) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # what stops a run, Orbax raises too
        self.folder = folder.resolve() / FOLDER
        if must_exist:
            require(self.folder.is_dir(), f"--resume {folder}: has no folder {FOLDER}; give the --out of a run")
        self._args = ocp.args
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEEP, create=not must_exist, enable_async_checkpointing=False
        )
        # With its handler, the manager can read a checkpoint's metadata before it has saved anything itself.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handler)
        if must_exist:
            require(
                self._manager.latest_step() is not None,
                f"--resume {folder}: {FOLDER} has no finished checkpoint: the run ended before its first save was "
                f"finished, or had no --save-every; start it again: --out {folder} --resume auto does so",
            )

    def save(self, state: TrainState) -> None:
        """Save a state of host arrays. Returns when the checkpoint is on disk.

        Raises:
            ConfigError: the checkpoint cannot be written, as on a full disk; the ones before it stay.
        """
        tree = _arrays(state)
        try:
            with _quiet():
                self._manager.save(int(state.step), args=self._args.StandardSave(tree | {SUMS: _sums(tree)}))
        except Exception as error:  # tensorstore and Orbax raise types of their own
            raise ConfigError(
                f"checkpoint {self.folder / str(state.step)}: cannot be written ({_system_error(error)}); the ones "
                "before it are kept"
            ) from error

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, bit for bit, as host arrays.

        Args:
            like: a state of the same structure; its values are not used.

        Raises:
            ConfigError: the checkpoint is damaged, or has other names, shapes or dtypes than `like`.
        """
        step, tree = self._manager.latest_step(), _arrays(like)
        source = f"checkpoint {self.folder / str(step)}"
        try:
            with _quiet():
                stored = self._manager.item_metadata(step)
            # A dict in Orbax 0.11; an object with the dict in later releases.
            _compare(getattr(stored, "tree", stored), tree | {SUMS: _sums(tree)}, source)
            with _quiet():
                restored = self._manager.restore(step, args=self._args.StandardRestore(tree | {SUMS: _sums(tree)}))
            saved_sums = restored.pop(SUMS)
            if (saved_sums != _sums(restored)).any():
                raise ValueError("its values are not those that were saved")
        except ConfigError:
            raise
        except Exception as error:  # tensorstore, JSON and Orbax raise types of their own
            raise ConfigError(
                f"{source}: cannot be read ({one_line(error)}); delete it to continue from an earlier one"
            ) from error
        return like.replace(**restored)

    def close(self) -> None:
        """Wait for Orbax and release its threads."""
        self._manager.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax and tensorstore also print the tracebacks of errors that they raise: on stderr, and in their threads.

    If the block fails, their threads stay silent until the process ends, which it does.
    """
    before = sys.excepthook, threading.excepthook, sys.unraisablehook, logging.root.manager.disable
    sys.excepthook, threading.excepthook, sys.unraisablehook = _say_nothing, _say_nothing, _say_nothing
    logging.disable(logging.CRITICAL)
    try:
        yield
    except BaseException:
        atexit.register(_silence)
        raise
    else:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before[:3]
    finally:
        logging.disable(before[3])


def _say_nothing(*_: Any) -> None:
    """A hook of Python's that prints nothing."""


def _silence() -> None:
    """While Python exits, tensorstore's threads meet an event loop that is closed, after `sys.excepthook` is gone."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)


def _system_error(error: BaseException) -> str:
    """The operating system's part of an error of tensorstore, whose text is long; other errors in one line."""
    text = " ".join(str(error).split())
    known = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)]
    return next((words for words in known if words in text), one_line(error))


def _compare(stored: Any, want: dict[str, Any], source: str) -> None:
    """Compare the names, shapes and dtypes in a checkpoint with those of the run, before any value is read.

    Orbax casts to the target's dtype without a word, and where the target is a NumPy array it returns the stored shape
    (https://github.com/google/orbax/issues/2972 is a model of another size that was restored in silence).

    Raises:
        ValueError: the checkpoint has no description of its arrays.
        ConfigError: they differ.
    """
    if not stored:
        raise ValueError("the description of its arrays is missing")
    got, ours = _described(stored), _described(want)
    advice = "put the --model with which the run began back, or start a new run"
    for name in sorted(ours.keys() ^ got.keys()):
        which = "lacks" if name in ours else "has"
        raise ConfigError(
            f"{source}: {which} {name}, must have the arrays of this run's model and optimizer and no others; {advice}"
        )
    for name in sorted(ours, key=lambda name: not name.startswith("params/")):  # Adam's moments have the same shapes
        require(
            got[name] == ours[name],
            f"{source}: {name} is {got[name]}, must be {ours[name]} as in the model that --model has now; {advice}",
        )


def _described(tree: Any) -> dict[str, str]:
    """Name -> dtype and shape of each leaf; lists, tuples and named tuples get the names that Orbax gives them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path): (
            f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"
        )
        for path, leaf in leaves
    }


def _arrays(state: TrainState) -> dict[str, Any]:
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state, "seed": state.seed}
    return jax.tree.map(np.asarray, tree)


def _sums(tree: dict[str, Any]) -> Any:
    """CRC-32 of the bytes of each leaf, uint32."""
    return np.array([zlib.crc32(np.ascontiguousarray(leaf).data) for leaf in jax.tree.leaves(tree)], np.uint32)
