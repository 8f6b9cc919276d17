"""The message for each thing that can be wrong with the files of `--data`, and with its path."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafiles import write_splits

from sftref.config import ConfigError
from sftref.data.examples import load_examples
from sftref.data.tasks import get_task

QQP = get_task("qqp")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_splits(tmp_path)


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def arrow_says(content: bytes) -> str:
    """Arrow's own words on a broken file, which change between its releases."""
    with pytest.raises(pa.ArrowInvalid) as error:
        pq.ParquetFile(pa.BufferReader(content))
    return " ".join(str(error.value).split())[:160]


KINDS = ".csv, .tsv, .txt, .json, .jsonl, .ndjson, .parquet, .arrow, .feather"
PACKED = ".gz, .bz2, .xz, .zst, .lz4, .br, .zip"
NOT_PARQUET = b"question1,question2,label"
RULE = "must be an integer from 0 to 1, or one of not_duplicate, duplicate"
HEADER = b"question1,question2,label\n"
TABBED = b"question1\tquestion2\tlabel\n"
BAD_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
)
# id: (file, its content, the message after "--data PATH")
BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "extension": ("a.dat", b"x", f": extension '.dat', must be one of {KINDS}, also with {PACKED}"),
    "no table": (
        "a.txt",
        b"x",
        f": extension '.txt', must be one of {KINDS}, also with {PACKED} (as .txt only with tabs between the columns)",
    ),
    "empty csv": ("a.csv", b"", " is empty, must have at least one row"),
    "blank csv": ("a.csv", b"\n\n", " is empty, must have at least one row"),
    "header only": ("a.csv", HEADER, " is empty, must have at least one row"),
    "empty array": ("a.json", b"[]", " is empty, must have at least one row"),
    "empty table": (
        "a.parquet",
        parquet({name: pa.array([], pa.string()) for name in ("question1", "question2", "label")}),
        " is empty, must have at least one row",
    ),
    "no label": (
        "a.csv",
        b"question1,question2,target\na,b,1\n",
        ": no column label, which --task qqp needs; it has question1, question2, target",
    ),
    "wrong columns": (
        "a.jsonl",
        b'{"sentence1": "a", "label": 1}\n',
        ": no column question1 nor question2, which --task qqp needs; it has sentence1, label",
    ),
    "same column twice": (
        "a.csv",
        b"question1,question1,label\na,b,1\n",
        " line 1: columns question1, question1, label must have different names; rename one of question1",
    ),
    "not utf-8": (
        "a.csv",
        HEADER + b"caf\xe9,b,1\n",
        " line 2: byte 29 is 0xe9, which is not UTF-8; convert the file, for example with iconv -f WINDOWS-1252 -t "
        "UTF-8",
    ),
    "utf-16": (
        "a.tsv",
        "x\ty".encode("utf-16"),
        ": is UTF-16, must be UTF-8; convert it with iconv -f UTF-16 -t UTF-8",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        b'{"question1": "\\ud83d", "question2": "b", "label": 1}\n',
        " row 0: question1 is half a surrogate pair, must be text; 1 of 1 rows are wrong like this: fix or remove them",
    ),
    "short row": (
        "a.csv",
        HEADER + b"a,b,1\nc,0\n",
        " line 3 has 2 fields, must have 3; 1 of 2 rows have another number of fields; fix them",
    ),
    "long row": (
        "a.csv",
        HEADER + b"a,b,c,1\n",
        " line 2 has 4 fields, must have 3; 1 of 1 rows have another number of fields; fix them",
    ),
    "short rows of a small tsv": (
        "a.tsv",
        TABBED + b"a\tb\t1\n\nc\t0\n",
        " line 4 has 2 fields, must have 3; 1 of 2 rows have another number of fields; fix them",
    ),
    "open quotation mark": (
        "a.csv",
        HEADER + b'"a\nb",b,1\n"c,d,0\ne,f,1\n',
        " line 4: unexpected end of data; fix that row",
    ),
    "text after a quotation": ("a.csv", HEADER + b'"a"b,c,1\n', " line 2: ',' expected after '\"'; fix that row"),
    "broken json lines": (
        "a.jsonl",
        b'{"question1": "a", "question2": "b", "label": 1}\n{"question1": \n',
        " line 2: not JSON (Expecting value); fix that line",
    ),
    "broken json array": (
        "a.json",
        b'[\n{"label": 1},\n{"label" 1}]',
        " line 3: not JSON (Expecting ':' delimiter); fix that line",
    ),
    "json of no objects": (
        "a.json",
        b'[{"label": 1}, ["a", "b", 1]]',
        ' row 1 is ["a", "b", 1], must be an object of columns',
    ),
    "label of another type": (
        "a.jsonl",
        b'{"question1": "a", "question2": "b", "label": [1]}\n',
        f" row 0: label = [1], {RULE}; 1 of 1 rows have other labels ([1]: 1)",
    ),
    "label too large": (
        "a.csv",
        HEADER + b"a,b,1\nc,d,2\n",
        f" row 1: label = 2, {RULE}; 1 of 2 rows have other labels (2: 1)",
    ),
    "label with a fraction": (
        "a.tsv",
        TABBED + b"a\tb\t0.5\n",
        f" row 0: label = 0.5, {RULE}; 1 of 1 rows have other labels (0.5: 1)",
    ),
    "label in other words": (
        "a.csv",
        HEADER + b"a,b,yes\n",
        f" row 0: label = yes, {RULE}; 1 of 1 rows have other labels (yes: 1)",
    ),
    "no label in a row": (
        "a.csv",
        HEADER + b"a,b,\n",
        f" row 0: label is missing, {RULE}; 1 of 1 rows have other labels (missing: 1)",
    ),
    "label null": (
        "a.parquet",
        parquet({"question1": ["a"], "question2": ["b"], "label": pa.array([None], pa.int64())}),
        f" row 0: label is missing, {RULE}; 1 of 1 rows have other labels (missing: 1)",
    ),
    "hidden label": (
        "a.csv",
        HEADER + b"a,b,-1\n",
        f" row 0: label = -1, {RULE}; 1 of 1 rows have other labels (-1: 1); -1 marks the hidden labels of GLUE's test "
        "splits: give a labelled file",
    ),
    "text null": (
        "a.jsonl",
        b'{"question1": "a", "question2": "b", "label": 1}\n{"question1": "a", "label": 1}\n',
        " row 1: question2 is null, must be text; 1 of 2 rows are wrong like this: fix or remove them",
    ),
    "text a number": (
        "a.parquet",
        parquet({"question1": [12], "question2": ["b"], "label": [1]}),
        " row 0: question1 is 12, must be text; 1 of 1 rows are wrong like this: fix or remove them",
    ),
    "not parquet": (
        "a.parquet",
        NOT_PARQUET,
        f": cannot be read as Parquet ({arrow_says(NOT_PARQUET)}); write it again",
    ),
    "parquet with bytes for text": (
        "a.parquet",
        parquet({"question1": BAD_UTF8, "question2": ["b"], "label": [1]}),
        (
            ": cannot be read as Parquet ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); "
            "write it again"
        ),
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_examples(QQP, str(path), train_fraction=0.5, eval_fraction=0.5, eval_from="train")
    assert str(error.value) == f"--data {path}{message}"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("label", "shown"), [("nan", "= nan"), ("inf", "= inf"), ("5.1", "= 5.1"), ("-0.5", "= -0.5")])
def test_bad_real_labels(tmp_path: Path, label: str, shown: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"sentence1,sentence2,label\na,b,2.5\nc,d,{label}\n")
    with pytest.raises(ConfigError) as error:
        load_examples(get_task("stsb"), str(path), train_fraction=0.5, eval_fraction=0.5, eval_from="train")
    assert str(error.value) == (
        f"--data {path} row 1: label {shown}, must be a number from 0 to 5; 1 of 2 rows have other labels ({label}: 1)"
    )


class TestPaths:
    """A path that cannot be used MUST name what is there and what to give."""

    def test_nothing_there(self) -> None:
        with pytest.raises(ConfigError) as error:
            load_examples(QQP, "no/such/folder")
        assert str(error.value) == "--data no/such/folder: no such file or folder; give one, or bundled, or hub"

    def test_one_file_has_no_validation_split(self, pairs: Path) -> None:
        with pytest.raises(ConfigError) as error:
            load_examples(QQP, f"{pairs}/train.parquet")
        assert str(error.value) == (
            f"--data {pairs}/train.parquet is one file and has no validation split; add --eval-from train with "
            "--train-fraction and --eval-fraction, or give a folder"
        )

    def test_a_folder_without_the_split(self, pairs: Path) -> None:
        (pairs / "validation.parquet").rename(pairs / "test.parquet")
        with pytest.raises(ConfigError) as error:
            load_examples(QQP, str(pairs))
        assert str(error.value) == (
            f"--data {pairs}: no file validation with one of {KINDS} (also {PACKED}), nor dev, val, valid; "
            "it has 2 files: test.parquet, train.parquet; a test split is not used, because those of GLUE have no "
            "labels; give such a file, or hold out training rows with --eval-from train"
        )
        splits = load_examples(QQP, str(pairs), train_fraction=0.5, eval_fraction=0.5, eval_from="train")
        assert len(splits.train) == 50

    def test_two_files_for_one_split(self, pairs: Path) -> None:
        (pairs / "dev.csv").write_text("")
        with pytest.raises(ConfigError) as error:
            load_examples(QQP, str(pairs))
        assert (
            str(error.value)
            == f"--data {pairs}: has dev.csv and validation.parquet for the split validation; remove one"
        )
