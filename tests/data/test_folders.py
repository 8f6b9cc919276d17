"""Where the files of a split can be: folders, shards, packed files, `save_to_disk`; and what is refused, and why."""

import bz2
import gzip
import io
import logging
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pytest
from datafiles import rows

from sftref.config import ConfigError
from sftref.data.examples import load_evaluations, load_examples
from sftref.data.tasks import get_task

QQP, MNLI = get_task("qqp"), get_task("mnli")
LINES = "question1\tquestion2\tlabel\nq 0\tr 0\t0\nq 1\tr 1\t1\n"


def put(folder: Path, *names: str) -> Path:
    """Files of qqp, each with one row that has the file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"question1": [name], "question2": ["b"], "label": [1]}
        if path.suffix == ".parquet":
            datasets.Dataset.from_dict(content).to_parquet(path)
        else:
            path.write_text(f"question1\tquestion2\tlabel\n{name}\tb\t1\n")
    return folder


def read(folder: Path) -> dict[str, list[str]]:
    """The first question of each row by split."""
    splits = load_examples(QQP, str(folder))
    return {"train": list(splits.train["question1"])} | {k: list(v["question1"]) for k, v in splits.validation.items()}


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder)
    return str(error.value).removeprefix(f"--data {folder}")


# The files of a folder -> those that are the splits.
LAYOUTS = {
    "dev": (("train.tsv", "dev.tsv", "test.tsv"), ("train.tsv",), ("dev.tsv",)),
    "val": (("train.tsv", "val.tsv"), ("train.tsv",), ("val.tsv",)),
    "valid": (("Training.tsv", "VALID.TSV"), ("Training.tsv",), ("VALID.TSV",)),
    "names around": (("sts-train.tsv", "multinli_1.0_dev.txt"), ("sts-train.tsv",), ("multinli_1.0_dev.txt",)),
    "mrpc's ids of dev": (("train.tsv", "dev.tsv", "dev_ids.tsv"), ("train.tsv",), ("dev.tsv",)),
    "hub": (
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/dev-00000-of-00001.parquet"),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
        ("data/dev-00000-of-00001.parquet",),
    ),
    "hub, with hashes": (
        (
            "train-00000-of-00002-b42a775f407cee45.parquet",
            "train-00001-of-00002-0a1b2c3d4e5f6071.parquet",
            "validation-00000-of-00001-0123456789abcdef.parquet",
        ),
        ("train-00000-of-00002-b42a775f407cee45.parquet", "train-00001-of-00002-0a1b2c3d4e5f6071.parquet"),
        ("validation-00000-of-00001-0123456789abcdef.parquet",),
    ),
    "hub, with tasks": (
        tuple(
            f"{task}/{split}-00000-of-00001.parquet"
            for task in ("ax", "mrpc", "qqp")
            for split in ("train", "validation")
        ),
        ("qqp/train-00000-of-00001.parquet",),
        ("qqp/validation-00000-of-00001.parquet",),
    ),
    "the hub's conversion": (
        ("qqp/train/0000.parquet", "qqp/train/0001.parquet", "qqp/validation/0000.parquet", "rte/train/0000.parquet"),
        ("qqp/train/0000.parquet", "qqp/train/0001.parquet"),
        ("qqp/validation/0000.parquet",),
    ),
    "the hub's cache": (
        ("refs/main", "snapshots/0a1b/qqp/train-00000-of-00001.parquet", "snapshots/0a1b/qqp/dev.tsv"),
        ("snapshots/0a1b/qqp/train-00000-of-00001.parquet",),
        ("snapshots/0a1b/qqp/dev.tsv",),
    ),
    "glue_data": (
        ("QQP/train.tsv", "QQP/dev.tsv", "QQP/original/train.tsv", "RTE/train.tsv", "RTE/dev.tsv"),
        ("QQP/train.tsv",),
        ("QQP/dev.tsv",),
    ),
    "ten numbered files": (
        (*(f"train_{k}.tsv" for k in range(1, 11)), "dev.tsv"),
        tuple(f"train_{k}.tsv" for k in range(1, 11)),
        ("dev.tsv",),
    ),
}


@pytest.mark.parametrize(("files", "train", "validation"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path: Path, files: tuple[str, ...], train: tuple[str, ...], validation: tuple[str, ...]) -> None:
    assert read(put(tmp_path, *files)) == {"train": list(train), "validation": list(validation)}


def test_other_files_than_the_obvious_ones_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "data/train-0-of-2.tsv", "data/train-1-of-2.tsv", "dev.tsv")
    with caplog.at_level(logging.WARNING):
        splits = load_examples(QQP, str(tmp_path))
    assert caplog.messages == [
        f"--data {tmp_path}: the split train is data/train-0-of-2.tsv to data/train-1-of-2.tsv",
    ]
    assert list(splits.train["example_id"]) == [0, 1]


REFUSED = {
    "a shard": (
        ("train-00000-of-00003.tsv", "train-00002-of-00003.tsv", "dev.tsv"),
        ": has 2 of the 3 files of the split train; number 1 is missing",
    ),
    "the only shard": (
        ("train-00001-of-00002.tsv", "dev.tsv"),
        ": has 1 of the 2 files of the split train; number 0 is missing",
    ),
    "a number": (("train_0.tsv", "train_2.tsv", "dev.tsv"), ": has 2 of the 3 files of the split train; number 1"),
    "two of one": (("train.tsv", "train.tsv.gz", "dev.tsv"), ": has train.tsv and train.tsv.gz for the split train"),
    "two folders": (
        ("a/train.tsv", "b/train.tsv", "dev.tsv"),
        ": 2 folders have a split train: {0}/a, {0}/b; give one",
    ),
    "another task": (("MRPC/train.tsv", "dev.tsv"), ": no file train with one of .csv, .tsv"),
    "archives": (("QQP-clean.zip", "dev.tsv"), "it has 2 files: QQP-clean.zip, dev.tsv; unpack QQP-clean.zip"),
    "train alone": (("train.tsv",), "or hold out training rows with --eval-from train"),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_folders(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    assert message.format(tmp_path) in refusal(put(tmp_path, *files))


def test_mnli_s_evaluations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Matched and mismatched by any name; one of them; or one of neither kind, as in SNLI."""
    for name in ("multinli_1.0_dev_matched", "val_mismatched", "dev"):
        (tmp_path / f"{name}.tsv").write_text(f"gold_label\tsentence1\tsentence2\nneutral\t{name}\tb\n")
    found = {k: v["premise"][0] for k, v in load_evaluations(MNLI, str(tmp_path)).items()}
    matched, mismatched = "validation_matched", "validation_mismatched"
    assert found == {matched: "multinli_1.0_dev_matched", mismatched: "val_mismatched"}
    (tmp_path / "val_mismatched.tsv").unlink()
    with caplog.at_level(logging.WARNING):
        assert list(load_evaluations(MNLI, str(tmp_path))) == [matched]
    assert f"--data {tmp_path}: has no file {mismatched}; only {matched} is evaluated" in caplog.messages
    (tmp_path / "multinli_1.0_dev_matched.tsv").unlink()
    assert list(load_evaluations(MNLI, str(tmp_path))) == ["validation"]


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(data)
        return bytes(sink.getvalue())

    return compress


def zipped(data: bytes, *names: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        member = tarfile.TarInfo("train.tsv")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "train.tsv.gz": gzip.compress,
    "train.tsv": gzip.compress,  # its first bytes decide
    "train.TSV.GZ": lambda data: gzip.compress(data[:30]) + gzip.compress(data[30:]),
    "train.tsv.bz2": bz2.compress,
    "train.tsv.xz": lzma.compress,
    "train.tsv.zst": arrow("zstd"),
    "train.tsv.lz4": arrow("lz4"),
    "train.tsv.br": arrow("brotli"),
    "train.tsv.zip": lambda data: zipped(data, "train.tsv", "__MACOSX/._train.tsv"),
    "train.zip": lambda data: zipped(data, "anything.tsv", "README"),
}


@pytest.mark.parametrize(("name", "compress"), COMPRESSED.items(), ids=COMPRESSED)
def test_compressed_files(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(compress(LINES.encode()))
    (tmp_path / "dev.tsv").write_text(LINES)
    assert read(tmp_path) == {"train": ["q 0", "q 1"], "validation": ["q 0", "q 1"]}


# The name of a file, its content, and the words of its refusal.
OTHER_THINGS = {
    "cut": ("a.tsv.gz", gzip.compress(LINES.encode())[:40], "cannot be unpacked, its 40 bytes are damaged"),
    "tar": ("a.tar.gz", tarred(LINES.encode()), "is an archive; unpack it with tar -xf, and give the folder"),
    "zip": (
        "CoLA.zip",
        zipped(b"", "CoLA/train.tsv", "CoLA/dev.tsv"),
        "is an archive of 2 files (CoLA/train.tsv, CoLA/dev.tsv); unpack it with python -m zipfile -e FILE FOLDER",
    ),
    "excel": ("a.xlsx", zipped(b"", "xl/workbook.xml"), "is an Excel workbook; save the sheet as CSV UTF-8"),
    "lfs": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer and not the data"),
    "page": ("a.tsv", b"\n<!DOCTYPE html><html>", "is a page in HTML or XML and not the data, as a failed download"),
    "error": ("a.tsv", b"<?xml version='1.0'?><Error>", "is a page in HTML or XML and not the data"),
    "pickle": ("a.pkl", b"\x80", "is a Python pickle; load it and write it with pandas' to_parquet"),
}


@pytest.mark.parametrize(("name", "content", "message"), OTHER_THINGS.values(), ids=OTHER_THINGS)
def test_other_things_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_evaluations(QQP, str(path))
    assert str(error.value).startswith(f"--data {path}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_arrow_files(tmp_path: Path) -> None:
    table = pa.table(rows(3))
    pyarrow.feather.write_feather(table, tmp_path / "train.feather")
    with pa.OSFile(str(tmp_path / "glue-validation.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    assert read(tmp_path) == {split: ["q 0", "q 1", "q 2"] for split in ("train", "validation")}
    (tmp_path / "train.feather").write_bytes(b"ARROW1")
    assert "cannot be read as Arrow" in refusal(tmp_path)


def test_save_to_disk(tmp_path: Path) -> None:
    """A DatasetDict is a folder of splits, a Dataset is like one file; texts such as "NA" stay as they are."""
    data = rows(8) | {"question1": ["NA", "null", "007", "", "1.0", "true", "None", "nan"]}
    split = datasets.Dataset.from_dict(data).with_format("numpy")
    datasets.DatasetDict(train=split, valid=split.select(range(2))).save_to_disk(
        tmp_path / "both", num_shards={"train": 2, "valid": 1}
    )
    assert read(tmp_path / "both") == {"train": data["question1"], "validation": ["NA", "null"]}
    datasets.DatasetDict(train=split, test=split).save_to_disk(tmp_path / "tested")
    assert "; it has the splits train, test of save_to_disk; a test split is not used" in refusal(tmp_path / "tested")
    alone = str(tmp_path / "both" / "train")
    halves = load_examples(QQP, alone, train_fraction=0.5, eval_fraction=0.5, eval_from="train")
    assert (len(halves.train), len(halves.validation["held_out"])) == (4, 4)
    assert {k: len(v) for k, v in load_evaluations(QQP, alone).items()} == {"train": 8}
    with pytest.raises(ConfigError, match="is one file and has no validation split"):
        load_examples(QQP, alone)


def test_save_to_disk_without_texts_or_damaged(tmp_path: Path) -> None:
    tokens = datasets.Dataset.from_dict({"input_ids": [[1]], "label": [1]})
    datasets.DatasetDict(train=tokens, validation=tokens).save_to_disk(tmp_path / "a")
    message = refusal(tmp_path / "a")
    assert "no column question1 nor question2" in message
    assert message.endswith("it has tokens, must have texts: save the data before they are tokenized")
    for file in (tmp_path / "a" / "validation").glob("*.arrow"):
        file.unlink()
    message = refusal(tmp_path / "a")
    assert message.startswith("/validation: a folder of save_to_disk that datasets ")
    assert message.endswith("write it again with Dataset.to_parquet")
    (tmp_path / "a" / "dataset_dict.json").write_text("{")
    assert "dataset_dict.json cannot be read" in refusal(tmp_path / "a")


def test_only_the_split_that_is_evaluated_is_read(tmp_path: Path) -> None:
    put(tmp_path, "dev.tsv")
    (tmp_path / "train.tsv").write_bytes(b"\xff")
    assert {k: len(v) for k, v in load_evaluations(QQP, str(tmp_path)).items()} == {"validation": 1}
    assert list(load_evaluations(QQP, f"{tmp_path}/dev.tsv")) == ["dev"]


def test_evaluations_from_the_training_split(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("question1\tquestion2\tlabel\n" + "a\tb\t1\n" * 20)
    assert {k: len(v) for k, v in load_evaluations(QQP, str(tmp_path), eval_from="train").items()} == {"train": 20}
    options = {"train_fraction": 0.6, "eval_fraction": 0.2, "eval_from": "train", "seed": 3}
    held_out = load_examples(QQP, str(tmp_path), **options).validation["held_out"]
    assert load_evaluations(QQP, str(tmp_path), **options)["held_out"].to_list() == held_out.to_list()
    assert len(held_out) == 4
