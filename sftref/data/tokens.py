"""`Dataset` of examples -> `TokenArrays`, with the model's own tokenizer; cached on disk and memory-mapped.

The tokens of all examples are stored end to end, without padding; `batches.py` arranges them in rows.

A cache is a folder whose name is a hash of everything that its content depends on: texts, labels and example ids (not
the data set's fingerprint, which depends on the file's name and not on its content), tokenizer, length and `FORMAT`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sftref.config import one_line, require
from sftref.data.examples import EXAMPLE_ID, LABEL
from sftref.data.tasks import Task
from sftref.data.tokenizer import definition as definition
from sftref.data.tokenizer import load_tokenizer as load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

FORMAT = 1  # the format of the cache; raise it if the same texts give other arrays
BATCH = 1000  # examples in a call of the tokenizer, the default of `datasets.Dataset.map`

Labels = npt.NDArray[np.int32] | npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class TokenArrays:
    """The T tokens of n examples, end to end: those of example i are `offsets[i]` to `offsets[i + 1]` - 1."""

    input_ids: npt.NDArray[np.int32]  # [T]
    token_type_ids: npt.NDArray[np.uint8]  # [T]
    offsets: npt.NDArray[np.int64]  # [n + 1]
    labels: Labels  # [n]; float32 for regression
    example_ids: npt.NDArray[np.uint32]  # [n]

    def __len__(self) -> int:
        """The number of examples, n."""
        return len(self.labels)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """int32 [n]: the number of tokens of each example."""
        return np.diff(self.offsets).astype(np.int32)


def tokenize(
    dataset: Dataset,
    task: Task,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    cache_dir: Path | None = None,
    *,
    vocab_size: int | None = None,
    type_vocab_size: int | None = None,
    progress: Progress | None = None,
) -> TokenArrays:
    """Tokenize every example, with special tokens; of a pair that is too long, the longer text is cut first.

    Args:
        dataset: the task's text columns, `label` and `example_id`, with at least one example (`examples.py`).
        task: names the text columns, in the order for the tokenizer.
        tokenizer: the model's own.
        max_length: the most tokens of an example.
        cache_dir: the folder of all caches; None for no cache. If it cannot be written, a warning is logged.
        vocab_size: V of the model; every token id must be below V. None for no check.
        type_vocab_size: the model's number of token types; every type must be below it. None for no check.
        progress: called with the number of examples done and of all examples, after every 1,000 and at the end.

    Returns:
        Arrays in the order of the data set; memory-mapped and read-only if they are cached.

    Raises:
        ConfigError: `max_length` has no room for the special tokens and one token of each text; an id or a token type
            is not in the model's tables.
    """
    room = tokenizer.num_special_tokens_to_add(pair=len(task.fields) == 2) + len(task.fields)
    require(
        max_length >= room,
        f"--max-length = {max_length}, must be at least {room}, the special tokens and one token of each text",
    )
    folder = cache_dir / cache_key(dataset, task, tokenizer, max_length) if cache_dir is not None else None
    arrays = None if folder is None else _open(folder)
    if arrays is None:
        arrays = _tokenize(dataset, task, tokenizer, max_length, progress)
        if folder is not None:
            arrays = _save(arrays, folder)
    elif progress is not None:
        progress(len(arrays), len(arrays))
    highest = int(arrays.input_ids.max())
    require(
        vocab_size is None or highest < vocab_size,
        f"the tokenizer gives id {highest}, must be less than the model's vocab_size = {vocab_size}; "
        "use the tokenizer of --model",
    )
    highest = int(arrays.token_type_ids.max())
    require(
        type_vocab_size is None or highest < type_vocab_size,
        f"the tokenizer gives token type {highest}, must be less than the model's type_vocab_size = {type_vocab_size}; "
        'if the model has learned pairs without types, write "model_input_names": ["input_ids", "attention_mask"] into '
        "its tokenizer_config.json",
    )
    return arrays


def cache_key(dataset: Dataset, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int) -> str:
    """Everything that the arrays depend on -> 64 hexadecimal digits, SHA-256."""
    import pyarrow.compute as pc

    settings = [FORMAT, task.fields, task.regression, max_length, *definition(tokenizer)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    table = dataset.with_format("arrow")[:].combine_chunks()
    for name in task.fields:
        column = table.column(name)
        digest.update(np.asarray(pc.binary_length(column), np.int64).tobytes())  # so that "ab", "c" is not "a", "bc"
        for chunk in column.chunks:
            digest.update("".join(chunk.to_pylist()).encode())
    for array in _labels_and_ids(dataset, task):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _labels_and_ids(dataset: Dataset, task: Task) -> tuple[Labels, npt.NDArray[np.uint32]]:
    table = dataset.select_columns([LABEL, EXAMPLE_ID]).with_format("arrow")[:]
    labels, ids = np.asarray(table.column(LABEL)), np.asarray(table.column(EXAMPLE_ID))
    return labels.astype(np.float32) if task.regression else labels.astype(np.int32), ids.astype(np.uint32)


def _tokenize(
    dataset: Dataset, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int, progress: Progress | None
) -> TokenArrays:
    ids: list[npt.NDArray[np.int32]] = []
    types: list[npt.NDArray[np.uint8]] = []
    lengths: list[int] = []
    flat = itertools.chain.from_iterable
    options = {"truncation": "longest_first", "padding": False, "return_attention_mask": False}
    for start in range(0, len(dataset), BATCH):
        rows = dataset[start : start + BATCH]
        encoded = tokenizer(*(list(rows[name]) for name in task.fields), max_length=max_length, **options)
        lengths.extend(map(len, encoded["input_ids"]))
        ids.append(np.fromiter(flat(encoded["input_ids"]), np.int32))
        zeros = [[0] * len(ids[-1])]  # RoBERTa's tokenizer gives no types
        types.append(np.fromiter(flat(encoded.get("token_type_ids", zeros)), np.uint8))
        if progress is not None:
            progress(min(start + BATCH, len(dataset)), len(dataset))
    labels, example_ids = _labels_and_ids(dataset, task)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenArrays(np.concatenate(ids), np.concatenate(types), offsets, labels, example_ids)


def _description(arrays: TokenArrays) -> dict[str, Any]:
    """The dtype, shape and CRC-32 of each array, for `_open` to compare."""
    return {
        name: [array.dtype.str, list(array.shape), zlib.crc32(np.ascontiguousarray(array).data)]
        for name, array in vars(arrays).items()
    }


def _open(folder: Path) -> TokenArrays | None:
    """The arrays of a cache; None if there is no cache or a damaged one. A damaged cache is deleted."""
    if not folder.is_dir():
        return None
    try:
        saved = json.loads((folder / "arrays.json").read_text())
        arrays = TokenArrays(**{f.name: np.load(folder / f"{f.name}.npy", mmap_mode="r") for f in fields(TokenArrays)})
        if saved == _description(arrays):
            return arrays
        reason = "its content has changed"
    except (OSError, ValueError, EOFError) as error:
        reason = one_line(error)
    logger.warning("token cache %s is damaged (%s); rebuilding it", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _save(arrays: TokenArrays, folder: Path) -> TokenArrays:
    """Write a cache, whole or not at all, and open it; if that fails, warn and return the arrays themselves."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        for field in fields(TokenArrays):
            np.save(temporary / f"{field.name}.npy", getattr(arrays, field.name))
        (temporary / "arrays.json").write_text(json.dumps(_description(arrays)))
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock out other users of a shared cache
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # another process may have written the same cache
                raise
        mapped = _open(folder)
        return arrays if mapped is None else mapped
    except OSError as error:
        logger.warning("token cache %s cannot be written (%s); continuing without it", folder.parent, error)
        return arrays
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
