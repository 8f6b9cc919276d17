"""State on the host <-> Orbax checkpoints, which do not depend on devices: any trainer can continue any run."""

import logging
import zlib
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

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs each of its phases at INFO and WARNING
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
                f"--resume {folder}: {FOLDER} has no finished checkpoint; train with --save-every K first",
            )

    def save(self, state: TrainState) -> None:
        """Save a state of host arrays. Returns when the checkpoint is on disk."""
        tree = _arrays(state)
        self._manager.save(int(state.step), args=self._args.StandardSave(tree | {SUMS: _sums(tree)}))

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
            stored = self._manager.item_metadata(step)
            # A dict in Orbax 0.11; an object with the dict in later releases.
            _compare(getattr(stored, "tree", stored), tree | {SUMS: _sums(tree)}, source)
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


def _compare(stored: Any, want: dict[str, Any], source: str) -> None:
    """Compare the names, shapes and dtypes in a checkpoint with those of the run, before any value is read.

    Orbax compares neither where the target is a NumPy array: it returns the stored shape, and casts to the target's
    dtype (https://github.com/google/orbax/issues/2972 is a model of another size that was restored in silence).

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
