"""Checkpoints in the layout of Hugging Face, sound or damaged, and functions to compare them.

`cut`, `edit`, `tensors`, `put`, `remove` and `both` damage the folder of a sound checkpoint.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sftref.config import ConfigError
from sftref.model.pretrained import Pretrained, load_pretrained
from sftref.model.weights import CONFIG, INDEX, WEIGHTS

BERT = "a BERT of 2 layers, width 32, feed-forward 64, vocabulary 109, 2 labels"
KEY = "bert.encoder.layer.1.attention.self.key.weight"


def tiny_model() -> Pretrained:
    """The checkpoint that the tests write and damage."""
    return load_pretrained("tiny", num_labels=2, seed=3)


def write(folder: Path, flat: dict[str, np.ndarray], **config: Any) -> Path:
    """Write a checkpoint as another program might; entries of `config` that are None are left out."""
    folder.mkdir(exist_ok=True)
    content = load_pretrained("tiny", num_labels=2).hf_config | config
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    save_file(flat, folder / WEIGHTS)
    return folder


def write_sharded(folder: Path, flat: dict[str, np.ndarray]) -> Path:
    """Write a checkpoint in two files and an index."""
    write(folder, flat)
    (folder / WEIGHTS).unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(flat)}
    for file in set(files.values()):
        save_file({name: flat[name] for name in flat if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def assert_same(got: Any, want: Any) -> None:
    """Assert that two trees are equal in structure, dtype and every bit."""
    got, want = (flax.traverse_util.flatten_dict(tree) for tree in (got, want))
    assert got.keys() == want.keys()
    for path, leaf in want.items():
        assert got[path].dtype == leaf.dtype, path
        assert got[path].shape == leaf.shape, path
        assert got[path].tobytes() == leaf.tobytes(), path


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))

    return damage


def tensors(**changes: Any) -> Callable[[Path], None]:
    """Set tensors, or remove those that are None; in a keyword, `__` means a dot."""

    def damage(folder: Path) -> None:
        flat = load_file(folder / WEIGHTS) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in flat.items() if value is not None}, folder / WEIGHTS)

    return damage


def put(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()))


def void(_: object) -> None:
    """Ignore a result."""


def both(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: void([damage(folder) for damage in damages])


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()
