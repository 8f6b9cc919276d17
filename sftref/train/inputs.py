"""What a run is made from: digests of its data, tokenizer and model, stored with the run and compared by --resume."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sftref.cluster.distributed import digest
from sftref.config import ConfigError, one_line, require
from sftref.data.tokens import definition
from sftref.train.loop import Run

logger = logging.getLogger(__name__)

FILE = "inputs.json"
# A resumed run takes its parameters from the checkpoint, so these may change, as with `--model M --save M`.
PARAMETERS = "the model's parameters"
# Another version of transformers can describe the same tokenizer in another way; then all tokens stay the same.
TOKENIZER = "the tokenizer"
SETTINGS = "the model's settings"


def digests(run: Run) -> dict[str, Any]:
    """Name -> SHA-256, 64 hexadecimal digits, of each input of a run; the model's sizes and settings as they are."""
    model = run.model
    rows = None if model.classes is None else model.classes.rows
    values = {
        TOKENIZER: digest(definition(run.tokenizer)),
        "the order of the model's classes": digest(rows),
        PARAMETERS: digest([digest(np.asarray(leaf)).hex() for leaf in jax.tree.leaves(model.params)]),
    }
    for name, tokens in {"training": run.train, **run.validation}.items():
        values[f"the {name} data"] = digest([digest(np.asarray(array)).hex() for array in vars(tokens).values()])
    return {name: value.hex() for name, value in values.items()} | {SETTINGS: dataclasses.asdict(model.config)}


def record(folder: Path, now: dict[str, Any]) -> None:
    """Write `now`, of `digests`, into the folder of a run."""
    (folder / FILE).write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


def compare(folder: Path, now: dict[str, Any]) -> None:
    """Compare the inputs of a resumed run with those that `record` wrote, if it did.

    Raises:
        ConfigError: an input that the rest of the run depends on has changed, or the file is damaged.
    """
    try:
        then = json.loads((folder / FILE).read_text(encoding="utf-8"))
        changed = [name for name, value in now.items() if name != SETTINGS and then.get(name, value) != value]
        before, after = then.get(SETTINGS, {}), now.get(SETTINGS, {})
        # Only what both versions of this program know.
        settings = [name for name in after if before.get(name, after[name]) != after[name]]
        changed += [f"the model's {name} ({before[name]}, now {after[name]})" for name in settings]
    except FileNotFoundError:  # a run of an earlier version
        return
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"--resume {folder}: {FILE} cannot be read ({one_line(error)}); delete it to resume without the comparison"
        ) from error
    if PARAMETERS in changed:
        changed.remove(PARAMETERS)
        logger.warning(
            "--resume %s: %s in --model have changed; the run continues from its checkpoint", folder, PARAMETERS
        )
    if changed == [TOKENIZER]:
        return
    require(
        not changed,
        f"--resume {folder}: {' and '.join(changed)} changed after the run began, must stay the same; put the earlier "
        "files back, or start a new run",
    )
