"""What each kind of `--data` gives, and how it is sampled."""

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafiles import PAIRS, WRITERS, rows, write_splits

from sftref.config import ConfigError
from sftref.data import bundled
from sftref.data.examples import load_examples
from sftref.data.tasks import get_task

QQP = get_task("qqp")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_splits(tmp_path)


class TestFiles:
    """Every kind of file MUST give the same columns."""

    @pytest.mark.parametrize("extension", WRITERS)
    def test_every_format_gives_the_same_examples(self, tmp_path: Path, extension: str) -> None:
        WRITERS[extension](tmp_path / f"train.{extension}")
        WRITERS[extension](tmp_path / f"dev.{extension.upper()}")
        splits = load_examples(QQP, str(tmp_path))
        assert list(splits.validation) == ["validation"]
        for split in (splits.train, splits.validation["validation"]):
            assert split.column_names == ["question1", "question2", "label", "example_id"]
            assert [split.features[name].dtype for name in split.column_names] == [
                "string", "string", "int32", "uint32",
            ]  # fmt: skip
            assert [(r["question1"], r["question2"], r["label"]) for r in split] == PAIRS
            assert list(split["example_id"]) == [0, 1, 2]

    def test_a_tsv_has_no_quoting_and_a_csv_has(self, tmp_path: Path) -> None:
        text = 'sentence{0}label\n"Oh,{0}1\nhe said{0}0\n"quoted"{0}1\n'
        (tmp_path / "train.tsv").write_text(text.format("\t"))
        (tmp_path / "dev.csv").write_text('label,sentence\n1,"one, ""two""\nthree"\n')
        splits = load_examples(get_task("cola"), str(tmp_path))
        assert list(splits.train["sentence"]) == ['"Oh,', "he said", '"quoted"']
        assert list(splits.validation["validation"]["sentence"]) == ['one, "two"\nthree']

    def test_names_of_the_original_files_and_class_names(self, tmp_path: Path) -> None:
        """MRPC as gluebenchmark.com has it: a byte order mark, other column names; and labels in words."""
        (tmp_path / "train.tsv").write_bytes(
            b"\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t5\t6\tA b .\tB a .\r\n"
        )
        (tmp_path / "dev.csv").write_text("sentence1,sentence2,label\na,b,not_equivalent\nc,d,equivalent\n")
        splits = load_examples(get_task("mrpc"), str(tmp_path))
        assert splits.train[0] == {"sentence1": "A b .", "sentence2": "B a .", "label": 1, "example_id": 0}
        assert list(splits.validation["validation"]["label"]) == [0, 1]

    def test_mnli_has_two_evaluations(self, tmp_path: Path) -> None:
        header = "premise,hypothesis,label\n"
        (tmp_path / "train.csv").write_text(header + "a,b,2\n")
        (tmp_path / "dev_matched.csv").write_text(header + "c,d,1\n")
        (tmp_path / "validation_mismatched.csv").write_text(header + "e,f,0\n")
        splits = load_examples(get_task("mnli"), str(tmp_path))
        premises = {name: list(split["premise"]) for name, split in splits.validation.items()}
        assert premises == {"validation_matched": ["c"], "validation_mismatched": ["e"]}

    def test_real_labels(self, tmp_path: Path) -> None:
        for name in ("train", "dev"):
            (tmp_path / f"{name}.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t3.8\nc\td\t5\n")
        train = load_examples(get_task("stsb"), str(tmp_path)).train
        assert train.features["label"].dtype == "float32"
        assert list(train["label"]) == [float(np.float32(3.8)), 5.0]

    def test_a_few_short_rows_of_a_tsv_are_left_out_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = [f"q{i}\tr{i}\t{i % 2}" for i in range(1999)]
        body[4] = "broken"
        (tmp_path / "t.tsv").write_text("\n".join(["question1\tquestion2\tlabel", *body]))
        with caplog.at_level(logging.WARNING, logger="sftref.data.readers"):
            splits = load_examples(QQP, f"{tmp_path}/t.tsv", train_fraction=0.5, eval_fraction=0.5, eval_from="train")
        assert len(splits.train) + len(splits.validation["held_out"]) == 1998
        rule = f"--data {tmp_path}/t.tsv line 6 has 1 fields, must have 3"
        assert caplog.messages == [f"{rule}; left out: 1 of 1999 rows have another number of fields"]

    def test_no_short_row_of_a_csv_is_left_out(self, tmp_path: Path) -> None:
        body = [f"q{i},r{i},{i % 2}" for i in range(1999)]
        body[4] = "broken"
        (tmp_path / "t.csv").write_text("\n".join(["question1,question2,label", *body]))
        with pytest.raises(ConfigError, match=r"line 6 has 1 fields, must have 3; 1 of 1999 rows .*; fix them$"):
            load_examples(QQP, f"{tmp_path}/t.csv", train_fraction=0.5, eval_fraction=0.5, eval_from="train")


class TestSampling:
    """A sample MUST be a function of the split, the fractions and the seed, and keep each example's row number."""

    def test_everything_in_the_order_of_the_file(self, pairs: Path) -> None:
        splits = load_examples(QQP, str(pairs))
        assert list(splits.train["example_id"]) == list(range(100))
        assert list(splits.validation["validation"]["example_id"]) == list(range(20))

    def test_the_article_s_ten_and_ten_percent(self, tmp_path: Path) -> None:
        """363,846 rows gave the article 36,384 and 36,385: the second bound is int(0.2 n), not twice the first."""
        pq.write_table(pa.table(rows(1236)), tmp_path / "all.parquet")
        splits = load_examples(QQP, f"{tmp_path}/all.parquet", train_fraction=0.1, eval_fraction=0.1, eval_from="train")
        data = datasets.Dataset.from_dict(rows(1236)).shuffle(seed=0)
        train = data.select(list(range(int(data.shape[0] * 0.1))))
        held_out = data.select(list(range(int(data.shape[0] * 0.1), int(data.shape[0] * 0.2))))
        assert (len(train), len(held_out)) == (123, 124)
        assert list(splits.train["question1"]) == list(train["question1"])
        assert list(splits.validation) == ["held_out"]
        assert list(splits.validation["held_out"]["question1"]) == list(held_out["question1"])

    @pytest.mark.parametrize(
        ("first", "second", "sizes"), [(0.01, 0.06, (1, 6)), (0.7, 0.3, (70, 30)), (1e-2, 0.99, (1, 99))]
    )
    def test_held_out_rows_are_disjoint(self, pairs: Path, first: float, second: float, sizes: tuple[int, int]) -> None:
        splits = load_examples(QQP, str(pairs), train_fraction=first, eval_fraction=second, eval_from="train")
        train, held_out = (list(s["example_id"]) for s in (splits.train, splits.validation["held_out"]))
        assert (len(train), len(held_out)) == sizes
        assert not set(train) & set(held_out)

    def test_an_id_is_the_row_of_its_example(self, pairs: Path) -> None:
        splits = load_examples(QQP, str(pairs), train_fraction=0.3, eval_fraction=0.5)
        validation = splits.validation["validation"]
        assert (len(splits.train), len(validation)) == (30, 10)
        for split in (splits.train, validation):
            assert list(split["question1"]) == [f"q {i}" for i in split["example_id"]]
            assert list(split["label"]) == [i % 2 for i in split["example_id"]]
            assert list(split["example_id"]) != sorted(split["example_id"])

    def test_the_seed_decides_the_sample(self, pairs: Path) -> None:
        chosen = {
            seed: tuple(load_examples(QQP, str(pairs), train_fraction=0.3, seed=seed).train["example_id"])
            for seed in (0, 1, 2**64 - 1)
        }
        assert len(set(chosen.values())) == 3
        held_out = [
            load_examples(QQP, str(pairs), train_fraction=0.3, eval_fraction=0.3, eval_from="train", seed=seed)
            for seed in (0, 1)
        ]
        assert [tuple(splits.train["example_id"]) for splits in held_out] == [chosen[0], chosen[1]]
        assert chosen[0] == tuple(load_examples(QQP, str(pairs), train_fraction=0.3).train["example_id"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_fraction": 0.001}, "--train-fraction = 0.001 leaves none of 100 rows; raise it"),
            ({"eval_fraction": 0.04}, "--eval-fraction = 0.04 leaves none of 20 rows; raise it"),
            (
                {"train_fraction": 0.5, "eval_fraction": 0.001, "eval_from": "train"},
                "--eval-fraction = 0.001 leaves none of 100 rows; raise it",
            ),
            (
                {"train_fraction": 0.5, "eval_from": "train"},
                (
                    "--train-fraction = 0.5 and --eval-fraction = 1, must sum to at most 1 with --eval-from train; "
                    "lower one of them"
                ),
            ),
            ({"train_fraction": 0.0}, "--train-fraction = 0, must be more than 0 and at most 1"),
        ],
    )
    def test_fractions_that_cannot_be(self, pairs: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as error:
            load_examples(QQP, str(pairs), **options)
        assert str(error.value) == message


class TestBundledAndHub:
    """Data that are not the user's files MUST go through the same checks."""

    def test_bundled(self, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundled, "path", lambda split: pairs / f"{split}.parquet")
        splits = load_examples(QQP, "bundled")
        assert (len(splits.train), len(splits.validation["validation"])) == (100, 20)
        assert splits.train.column_names == ["question1", "question2", "label", "example_id"]

    def test_bundled_is_for_qqp_only(self) -> None:
        with pytest.raises(ConfigError) as error:
            load_examples(get_task("mrpc"), "bundled")
        assert str(error.value) == "--data bundled is for --task qqp, not mrpc; give --data hub or a path"

    def test_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []

        def load(*args: Any, split: str) -> datasets.Dataset:
            calls.append((*args, split))
            label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
            texts = datasets.Value("string")
            features = datasets.Features(premise=texts, hypothesis=texts, label=label, idx=datasets.Value("int32"))
            return datasets.Dataset.from_dict(
                {"premise": ["a"], "hypothesis": [split], "label": [2], "idx": [9]}, features=features
            )

        monkeypatch.setattr(datasets, "load_dataset", load)
        splits = load_examples(get_task("mnli"), "hub")
        assert sorted(calls) == [
            ("nyu-mll/glue", "mnli", name) for name in ("train", "validation_matched", "validation_mismatched")
        ]
        assert splits.train[0] == {"premise": "a", "hypothesis": "train", "label": 2, "example_id": 0}
        assert splits.validation["validation_mismatched"][0]["hypothesis"] == "validation_mismatched"

    def test_a_hub_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(*args: Any, **kwargs: Any) -> None:
            raise ConnectionError("Couldn't reach 'nyu-mll/glue'\non the Hub (LocalEntryNotFoundError)")

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(ConfigError) as error:
            load_examples(QQP, "hub")
        assert str(error.value) == (
            "--data hub: cannot load nyu-mll/glue qqp validation (Couldn't reach 'nyu-mll/glue' on the Hub "
            "(LocalEntryNotFoundError)); give --data PATH with local files, or --data bundled for qqp"
        )
