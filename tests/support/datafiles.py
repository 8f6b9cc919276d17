"""The same pairs of qqp in every supported file format, and a folder with two splits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PAIRS = [("How old?", "What age?", 1), ('He said "no', "tab-free, with a comma", 0), ("NA", "", 1)]


def rows(n: int) -> dict[str, list[Any]]:
    """`n` rows of qqp: each text has the row's number, each label its parity."""
    return {
        "question1": [f"q {i}" for i in range(n)],
        "question2": [f"r {i}" for i in range(n)],
        "label": [i % 2 for i in range(n)],
        "idx": [7 * i for i in range(n)],
    }


def write_csv(path: Path) -> None:
    body = "".join(f'"{a.replace(chr(34), chr(34) * 2)}","{b}",{label}\n' for a, b, label in PAIRS)
    path.write_text("question1,question2,label\n" + body)


def write_tsv(path: Path) -> None:
    path.write_text("question1\tquestion2\tlabel\n" + "".join(f"{a}\t{b}\t{label}\n" for a, b, label in PAIRS))


def as_objects() -> list[dict[str, Any]]:
    return [dict(zip(("question1", "question2", "label"), pair, strict=True)) for pair in PAIRS]


def write_json(path: Path) -> None:
    path.write_text(json.dumps(as_objects(), indent=1))


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in as_objects()) + "\n\n")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(as_objects()), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "csv": write_csv,
    "tsv": write_tsv,
    "json": write_json,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def write_splits(folder: Path) -> Path:
    """A folder of qqp with 100 training and 20 validation rows."""
    pq.write_table(pa.table(rows(100)), folder / "train.parquet")
    pq.write_table(pa.table(rows(20)), folder / "validation.parquet")
    return folder
