"""A model's name -> its configuration, parameters and tokenizer -> a folder that `transformers` can load.

Each parameter is checked by name, shape and content. Parameters that a pre-trained checkpoint lacks (the classifier,
and sometimes the pooler) are initialized, as a function of the seed and the parameter's name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sftref.config import ConfigError, ModelConfig, one_line, require
from sftref.data.tasks import Task
from sftref.data.tokenizer import check_tables, load_tokenizer, save_tokenizer
from sftref.model import tiny
from sftref.model.classes import NEW_HEAD, Classes, match_classes
from sftref.model.hf_config import HEAD, HEADLESS, export_config, model_config
from sftref.model.names import (
    OPTIONAL,
    POOLER,
    Flat,
    Leaf,
    Params,
    canonical,
    check_known,
    from_hf,
    layer_of,
    leaves,
    to_hf,
)
from sftref.model.weights import CONFIG, TOKENIZER_FILES, WEIGHTS, model_folder, read_json, read_tensors, tensor_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A loaded model."""

    config: ModelConfig  # with the task's number of labels
    params: Params  # the tree of `BertForSequenceClassification`; NumPy leaves of one dtype
    folder: Path | None  # has config.json and the tokenizer; None for "tiny", which has no files
    hf_config: dict[str, Any]  # the content of config.json
    fresh: tuple[str, ...]  # the names of the parameters that were initialized, not read
    classes: Classes | None = None  # those of a classifier that was read; None for an initialized one

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's own tokenizer.

        Raises:
            ConfigError: the folder has no tokenizer that can be loaded, or it is that of another model.
        """
        if self.folder is None:
            return tiny.tokenizer()
        tokenizer = load_tokenizer(self.folder)
        check_tables(tokenizer, self.config.vocab_size, f"--model {self.folder}")
        return tokenizer


def load_pretrained(
    model: str,
    *,
    num_labels: int,
    regression: bool = False,
    num_layers: int | None = None,
    seed: int = 0,
    dtype: Any = np.float32,
    task: Task | None = None,
    fresh_head: bool = False,
) -> Pretrained:
    """Load a model for a task.

    Args:
        model: "demo" (all-MiniLM-L6-v2, from a package), "tiny" (random, for tests), a folder with config.json and
            model.safetensors (whole, or sharded with an index), or a model's id on the Hugging Face hub.
        num_labels: C; 1 for regression.
        regression: whether the head gives a real number, trained with a squared error.
        num_layers: keep the first layers only; None for all.
        seed: the seed of the initialized parameters, 0 to 2^64 - 1.
        dtype: the dtype of the returned parameters, float32 or float64, whatever the checkpoint has.
        task: its classes are matched by name with those of the checkpoint's classifier, whose rows are put into the
            task's order; None to take the rows as they are.
        fresh_head: initialize the classifier, whatever the checkpoint has.

    Raises:
        ConfigError: there is no such model; its files are missing, damaged or of another kind of model; a parameter is
            unknown, missing, not finite or of another shape; its classifier has other classes than the task.
    """
    source = f"--model {model}"
    if model == "tiny":
        folder, hf_config = None, tiny.hf_config()
    else:
        folder = model_folder(model)
        hf_config = read_json(folder / CONFIG, source)
    config = model_config(hf_config, source, num_labels, regression, num_layers)
    stored: Flat = {}
    if folder is not None:
        stored = _read(folder, config, hf_config, np.dtype(dtype), source, fresh_head=fresh_head)
    classes = None
    if task is not None and "classifier.weight" in stored:
        classes = match_classes(hf_config, task, source=source)
        stored |= _rows(stored, classes.rows)
    # Only a module that is absent as a whole is initialized: a file with half a classifier is damaged.
    modules = {name.rpartition(".")[0] for name in stored}
    absent = [leaf for leaf in leaves(config) if leaf.name.rpartition(".")[0] not in modules]
    fresh = [leaf for leaf in absent if folder is None or leaf.name.startswith(OPTIONAL)]
    drawn = {leaf.name: initial(leaf, seed, config.initializer_range).astype(dtype) for leaf in fresh}
    params = from_hf(stored | drawn, config, source=source)
    return Pretrained(config, params, folder, hf_config, tuple(drawn), classes)


def initial(leaf: Leaf, seed: int, scale: float) -> np.ndarray:
    """The initial value of a parameter, float32: N(0, scale^2); 1 for a LayerNorm's weight, 0 for a bias.

    It depends only on (seed, name). NumPy guarantees a generator's bits across versions, but not the results of
    `normal`, so this function makes normal numbers from bits (Box and Muller, Ann. Math. Statist. 29, 1958).
    """
    if leaf.path[-1] in ("scale", "bias"):
        return np.full(leaf.shape, float(leaf.path[-1] == "scale"), np.float32)
    key = np.array([seed, zlib.crc32(leaf.name.encode())], np.uint64)
    bits = np.random.Philox(key=key).random_raw((2, *leaf.shape)) >> np.uint64(11)
    radius = np.sqrt(-2.0 * np.log((bits[0] + 1.0) * 2.0**-53))  # the argument is in (0, 1], so the logarithm is finite
    return (scale * radius * np.cos(2.0 * np.pi * (bits[1] * 2.0**-53))).astype(np.float32)


def save_pretrained(
    folder: str | Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
    hf_config: Mapping[str, Any],
    *,
    label_names: Sequence[str] = (),
    classes: Classes | None = None,
) -> None:
    """Write a folder that `transformers.AutoModelForSequenceClassification` and `load_pretrained` open.

    The folder is written whole or not at all; an earlier save of the same name is replaced.

    Args:
        folder: see `check_target`.
        params: the tree of the model on the host; saved in its own dtype, float32 or float64.
        config: gives the shapes that the leaves must have.
        tokenizer: the model's own.
        hf_config: the config.json that the model came with; entries that are not set here are kept.
        label_names: C class names; if empty, they are "LABEL_0", "LABEL_1", ...
        classes: `Pretrained.classes`; a classifier that was read keeps its own names and order.

    Raises:
        ConfigError: the folder has other files or cannot be written; a parameter is unknown, missing or of another
            shape.
    """
    flat = to_hf(from_hf(to_hf(params), config))
    if classes is not None:
        label_names = classes.names
        flat |= _rows(flat, np.argsort(classes.rows))
    target = Path(folder)
    check_target(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        dtype = np.result_type(*flat.values()).name
        content = export_config(config, hf_config, label_names, dtype)
        (new / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        # transformers requires "pt", which means that the layouts are PyTorch's.
        save_file(flat, new / WEIGHTS, metadata={"format": "pt"})
        save_tokenizer(tokenizer, new)
        for file in new.iterdir():  # safetensors makes its file with mode 0600, whatever the umask is
            shutil.copymode(new / CONFIG, file)
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"model folder {target}: cannot be written ({one_line(error)}); choose another") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_target(folder: str | Path) -> None:
    """Check, before training, that `save_pretrained` can write to `folder`.

    Raises:
        ConfigError: `folder` is a file, or has a file that no earlier save wrote.
    """
    target = Path(folder)
    require(not target.exists() or target.is_dir(), f"model folder {target}: is a file; choose another name")
    known = {CONFIG, WEIGHTS, *TOKENIZER_FILES}
    others = sorted(p.name for p in target.iterdir() if p.name not in known) if target.is_dir() else []
    require(
        not others,
        f"model folder {target}: has {', '.join(others[:3])}, must be new, empty or an earlier save; choose another",
    )


def _read(
    folder: Path,
    config: ModelConfig,
    hf_config: Mapping[str, Any],
    dtype: np.dtype[Any],
    source: str,
    *,
    fresh_head: bool,
) -> Flat:
    """Canonical name -> each parameter in a folder, without the layers after `num_hidden_layers`."""
    files = tensor_files(folder, source)
    stored = canonical(files, source=source)
    if fresh_head:
        stored = {name: old for name, old in stored.items() if name.startswith("bert.")}
    if "classifier.weight" in stored:
        made_by = hf_config.get("architectures") or [HEAD]
        require(
            HEAD in made_by or HEADLESS.issuperset(made_by),
            f"{source}: its classifier is that of {', '.join(map(str, made_by))}, must be that of {HEAD}; "
            f"choose such a checkpoint, a pre-trained one, or {NEW_HEAD}",
        )
        require(
            any(name.startswith(POOLER) for name in stored),
            f"{source}: has a classifier and no {POOLER}, through which BertForSequenceClassification computes its "
            f"classes; choose a checkpoint with both, or {NEW_HEAD}",
        )
    dropped = range(config.num_hidden_layers, hf_config["num_hidden_layers"])
    kept = {name: old for name, old in stored.items() if layer_of(name) not in dropped}
    check_known(kept, config, source=source)
    tensors = read_tensors(kept.values(), files, dtype, source)
    flat = {name: tensors[old] for name, old in kept.items()}
    labels = len(flat["classifier.weight"]) if "classifier.weight" in flat else config.num_labels
    require(
        labels == config.num_labels,
        f"{source}: its classifier has num_labels = {labels}, must have {config.num_labels} for this task; "
        f"choose a task with {labels} labels, a checkpoint without classifier, or {NEW_HEAD}",
    )
    return flat


def _rows(flat: Flat, rows: Sequence[int] | np.ndarray) -> Flat:
    """The classifier with its rows in another order."""
    return {name: flat[name][list(rows)] for name in ("classifier.weight", "classifier.bias") if name in flat}
