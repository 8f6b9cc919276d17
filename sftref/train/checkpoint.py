"""State on the host <-> Orbax checkpoints, which know nothing of devices: any trainer continues any other's run."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sftref.config import ConfigError, require
from sftref.train.step import TrainState

FOLDER = "checkpoints"
# Orbax does not see a bit that turned over in its files: what it reads then is another number.
SUMS = "crc32"
KEEP = 2


def latest(folder: Path) -> int | None:
    """The step of the newest finished checkpoint of the run in `folder`; None where there is none."""
    steps = [int(path.name) for path in (folder / FOLDER).glob("*") if path.name.isdecimal()]
    return max(steps, default=None)


class Checkpoints:
    """The checkpoints of one run, in `folder`/checkpoints/STEP.

    Orbax writes to a temporary folder and renames it when it is whole, so an interrupted save leaves the last good one.

    Args:
        folder: the run's output folder.
        must_exist: whether a missing or empty folder is an error.

    Raises:
        ConfigError: there is no checkpoint where one must be.
    """

    def __init__(self, folder: Path, *, must_exist: bool = False) -> None:
        import orbax.checkpoint as ocp

        # Orbax logs each of its phases at INFO and above; what a person needs to know is said here.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.folder = folder.resolve() / FOLDER
        if must_exist:
            require(self.folder.is_dir(), f"--resume {folder}: has no folder {FOLDER}; give the --out of a run")
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEEP, create=not must_exist, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        if must_exist:
            require(
                self._manager.latest_step() is not None,
                f"--resume {folder}: {FOLDER} holds no finished checkpoint; train with --save-every K first",
            )

    def save(self, state: TrainState) -> None:
        """Save a state of host arrays. Returns when it is on disk."""
        tree = _arrays(state)
        self._manager.save(int(state.step), args=self._ocp.args.StandardSave(tree | {SUMS: _sums(tree)}))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, bit for bit, as host arrays.

        Args:
            like: a state of the same structure, whose values do not matter.

        Raises:
            ConfigError: the checkpoint is damaged, or of another model.
        """
        import jax

        step, tree = self._manager.latest_step(), _arrays(like)
        try:
            like_sums = np.zeros(len(jax.tree.leaves(tree)), np.uint32)
            found = self._manager.restore(step, args=self._ocp.args.StandardRestore(tree | {SUMS: like_sums}))
            written = found.pop(SUMS)
            if (written != _sums(found)).any():
                raise ValueError("its values are not those that were saved")
        except Exception as error:  # tensorstore, JSON and Orbax raise their own kinds
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"checkpoint {self.folder / str(step)}: cannot be read ({reason}); remove it to use the one before"
            ) from error
        return like.replace(**found)

    def close(self) -> None:
        """Wait for Orbax and let it go."""
        self._manager.close()


def _arrays(state: TrainState) -> dict[str, Any]:
    import jax

    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state, "seed": state.seed}
    return jax.tree.map(np.asarray, tree)


def _sums(tree: dict[str, Any]) -> Any:
    """CRC-32 of the bytes of each leaf, uint32."""
    import jax

    return np.array([zlib.crc32(np.ascontiguousarray(leaf).data) for leaf in jax.tree.leaves(tree)], np.uint32)
