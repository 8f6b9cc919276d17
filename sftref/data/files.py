"""A path -> `Table`: finds out what a file is by its first bytes and its extension, and unpacks it.

Where a file cannot be read, the error says what the file is, and how to make a file of it that can be read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NoReturn

from sftref.config import ConfigError, one_line, require
from sftref.data.readers import Table, read_arrow, read_csv, read_json, read_parquet, read_tsv
from sftref.data.tasks import Task

READERS: dict[str, Callable[[bytes, str, Task], Table]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".txt": read_tsv,
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".zip")
# What a reader is for, if the first bytes say something else than the extension.
_BINARY = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
# Extension -> what such a file is, and what makes a readable file of it.
_OTHERS = {
    ".xlsx": "an Excel workbook; save the sheet as CSV UTF-8",
    ".xls": "an Excel workbook; save the sheet as CSV UTF-8",
    ".ods": "a spreadsheet; save the sheet as csv",
    ".pkl": "a Python pickle; load it and write it with pandas' to_parquet",
    ".pickle": "a Python pickle; load it and write it with pandas' to_parquet",
    ".npz": "NumPy arrays; give texts, for example as jsonl",
    ".npy": "NumPy arrays; give texts, for example as jsonl",
    ".pt": "a PyTorch file; give texts, for example as jsonl",
    ".py": "a loading script; run it once, and save its data with Dataset.to_parquet",
    ".orc": "an ORC file; write it again with pandas' to_parquet",
    ".tar": "an archive; unpack it with tar -xf, and give the folder",
    ".tgz": "an archive; unpack it with tar -xf, and give the folder",
    ".7z": "an archive; unpack it, and give the folder",
    ".rar": "an archive; unpack it, and give the folder",
}
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def suffix_of(name: str) -> str:
    """The extension that decides on the reader, in lower case: "train.jsonl.gz" -> ".jsonl".

    Example:
        >>> suffix_of("Train.TSV"), suffix_of("dev.csv.xz"), suffix_of("a.tar.gz"), suffix_of("train.zip")
        ('.tsv', '.csv', '.tar', '.zip')
    """
    parts = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    return parts[-2] if len(parts) > 1 and parts[-1] in PACKED else (parts or [""])[-1]


def read_file(path: Path, task: Task) -> Table:
    """One file -> its columns.

    Raises:
        ConfigError: the file cannot be opened, is of another kind, is damaged, or its content is wrong.
    """
    source = f"--data {path}"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror})") from error
    raw, suffix = _unpack(raw, suffix_of(path.name), path.suffix.lower(), source)
    _refuse_other_things(raw, source)
    suffix = next((kind for magic, kind in _BINARY.items() if raw.startswith(magic)), suffix)
    if suffix not in READERS or (suffix == ".txt" and b"\t" not in raw.split(b"\n", 1)[0]):
        _refuse_kind(suffix, source)
    return READERS[suffix](raw, source, task)


def _refuse_kind(suffix: str, source: str) -> NoReturn:
    kinds = f"{', '.join(READERS)}, also with {', '.join(PACKED)}"
    if suffix in _OTHERS:
        raise ConfigError(f"{source} is {_OTHERS[suffix]}; its extension must be one of {kinds}")
    rule = " (as .txt only with tabs between the columns)" if suffix == ".txt" else ""
    raise ConfigError(f"{source}: extension {suffix!r}, must be one of {kinds}{rule}")


def _unpack(raw: bytes, suffix: str, last: str, source: str) -> tuple[bytes, str]:
    """Undo each compression that the first bytes show -> the content and the extension of what was in it."""
    try:
        while True:
            if raw.startswith(b"\x1f\x8b"):
                raw = gzip.decompress(raw)
            elif raw.startswith(b"BZh"):
                raw = bz2.decompress(raw)
            elif raw.startswith(b"\xfd7zXZ\x00"):
                raw = lzma.decompress(raw)
            elif raw.startswith(b"PK\x03\x04") and suffix not in _OTHERS:
                raw, suffix = _unzip(raw, suffix, source)
            elif raw.startswith(b"\x28\xb5\x2f\xfd"):
                raw = _decompress(raw, "zstd")
            elif raw.startswith(b"\x04\x22\x4d\x18"):
                raw = _decompress(raw, "lz4")
            elif last == ".br":  # Brotli has no first bytes of its own
                raw, last = _decompress(raw, "brotli"), ""
            else:
                break
    except ConfigError:
        raise
    except _DAMAGED as error:
        raise ConfigError(
            f"{source}: cannot be unpacked, its {len(raw):,} bytes are damaged or incomplete ({one_line(error)}); copy "
            "or download it again"
        ) from error
    # A .tar has its mark here, whatever its name.
    return raw, ".tar" if raw[257:262] == b"ustar" else suffix


def _decompress(raw: bytes, codec: str) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(raw), codec) as stream:
        return bytes(stream.read())


def _unzip(raw: bytes, suffix: str, source: str) -> tuple[bytes, str]:
    """A .zip with one file -> the content and extension of that file."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        readable = [name for name in names if suffix_of(name) in READERS and not name.startswith("__MACOSX/")]
        if len(readable) != 1:
            shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            raise ConfigError(
                f"{source} is an archive of {len(names)} files ({shown}); unpack it with python -m zipfile -e FILE "
                "FOLDER, and give the folder"
            )
        return archive.read(readable[0]), suffix_of(readable[0])


def _refuse_other_things(raw: bytes, source: str) -> None:
    """Refuse what a failed download leaves under the name of a data file."""
    start = raw[:200].lstrip().lower()
    require(
        not start.startswith(b"version https://git-lfs"),
        f"{source} is a Git LFS pointer and not the data; run git lfs pull in its repository",
    )
    require(
        not start.startswith((b"<!doctype", b"<html", b"<?xml")),
        f"{source} is a page in HTML or XML and not the data, as a failed download leaves it; download it again",
    )
