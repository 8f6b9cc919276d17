"""Files as GLUE, Quora, Excel and pandas write them: each MUST be read with its own words, or refused by its cause."""

import csv
import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from sftref.config import ConfigError
from sftref.data.examples import load_evaluations
from sftref.data.readers import TSV_ODD_ROWS
from sftref.data.tasks import get_task

SENTENCE = 'Oh, "no" she said.'


def read(path: Path, task: str, content: str | bytes) -> list[dict[str, object]]:
    """What `evaluate` gets of one file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (split,) = load_evaluations(get_task(task), str(path)).values()
    return split.to_list()


def refusal(path: Path, task: str, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as error:
        read(path, task, content)
    message = str(error.value)
    assert message.startswith(f"--data {path}")
    assert "\n" not in message
    return message.removeprefix(f"--data {path}")


def test_cola_has_no_line_of_names(tmp_path: Path) -> None:
    content = f"gj04\t1\t\t{SENTENCE}\nbc01\t0\t*\tThe a cat.\n"
    assert [(row["label"], row["sentence"]) for row in read(tmp_path / "dev.tsv", "cola", content)] == [
        (1, SENTENCE),
        (0, "The a cat."),
    ]


def test_another_file_without_names_is_not_read_by_its_first_line(tmp_path: Path) -> None:
    message = refusal(tmp_path / "train.tsv", "sst2", "a fine film\t1\nbad\t0\n")
    assert message == (
        " line 1: no column sentence nor label, which --task sst2 needs, in [a fine film | 1]; if that line is data, "
        "the file has no line of names: insert one before it"
    )


def test_cola_s_test_file_has_no_labels(tmp_path: Path) -> None:
    message = refusal(tmp_path / "test.tsv", "cola", "index\tsentence\n0\tA b.\n")
    assert message.startswith(": no column label, which --task cola needs; it has index, sentence; test files of GLUE")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_carriage_return_is_a_part_of_a_text(tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["sentence\tlabel", "one\rtwo\t1", "three\t0", "four\x85five\u2028six\x0b\t1", ""]
    rows = read(tmp_path / "train.tsv", "cola", end.join(lines))
    assert [row["sentence"] for row in rows] == ["one\rtwo", "three", "four\x85five\u2028six\x0b"]
    assert not caplog.messages


def test_a_file_whose_lines_end_with_cr(tmp_path: Path) -> None:
    for name, line in (("a.tsv", "sentence\tlabel\rone\t1\r"), ("a.csv", 'label,sentence\r1,"one"\r')):
        assert [row["sentence"] for row in read(tmp_path / name, "cola", line)] == ["one"]
    rows = read(tmp_path / "a.jsonl", "cola", '{"label": 1, "sentence": "a"}\r{"label": 0, "sentence": "b"}\r')
    assert [row["sentence"] for row in rows] == ["a", "b"]


def test_a_carriage_return_in_a_csv_needs_quotation_marks(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "cola", 'label,sentence\n1,"one\rtwo"\n')[0]["sentence"] == "one\rtwo"
    message = refusal(tmp_path / "a.csv", "cola", "label,sentence\n1,one\rtwo\n")
    assert message == " line 2: a carriage return in a field without quotation marks; fix that row"


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl"])
def test_a_field_may_have_200_000_characters(tmp_path: Path, extension: str) -> None:
    text, limit = "word " * 40_000, csv.field_size_limit()
    content = {
        "csv": f"sentence,label\n{text},1\n",
        "tsv": f"sentence\tlabel\n{text}\t1\n",
        "jsonl": json.dumps({"sentence": text, "label": 1}),
    }[extension]
    assert read(tmp_path / f"a.{extension}", "cola", content)[0]["sentence"] == text
    assert csv.field_size_limit() == limit


def test_fields_quoted_as_in_a_csv_are_kept_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """GLUE's .tsv has no quoting, and pandas' has: only a person knows which one this is."""
    content = 'sentence\tlabel\n"He said ""no"""\t1\n"Oh,\t0\n"quoted"\t1\n""\t0\n'
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path / "a.tsv", "cola", content)
    assert [row["sentence"] for row in rows] == ['"He said ""no"""', '"Oh,', '"quoted"', '""']
    assert [message.split(": ", 1)[1][:36] for message in caplog.messages] == ['1 fields have "" for " as in a .csv,']


def test_names_in_quotation_marks_show_that_a_tsv_has_quoting(tmp_path: Path) -> None:
    """quora_duplicate_questions.tsv, Quora's own release."""
    names = '"id"\t"qid1"\t"qid2"\t"question1"\t"question2"\t"is_duplicate"\n'
    (row,) = read(tmp_path / "a.tsv", "qqp", names + '"0"\t"1"\t"2"\t"What is ""x""?"\t"Two\nlines"\t"1"\n')
    assert (row["question1"], row["question2"], row["label"]) == ('What is "x"?', "Two\nlines", 1)


def test_a_csv_by_excel_may_have_semicolons(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", "cola", '\ufeffsentence;label\r\n"a; b, ""c""";1\r\nd, e;0\r\n')
    assert [row["sentence"] for row in rows] == ['a; b, "c"', "d, e"]


def test_a_csv_with_tabs_is_named(tmp_path: Path) -> None:
    """sts-train.csv of the STS benchmark."""
    message = refusal(tmp_path / "sts-train.csv", "stsb", "main\tMSRvid\t0001\t5.000\tA plane.\tA plane taking off.\n")
    assert message.endswith("insert one before it; its fields are separated by tabs: give it the extension .tsv")


def test_rows_without_consensus_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """MNLI's own files and SNLI's have "-", the hub's copies -1."""
    content = "gold_label\tsentence1\tsentence2\n-\ta\tb\nneutral\tc\td\nContradictory\te\tf\n-1\tg\th\n"
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path / "dev.tsv", "mnli", content)
    assert [(row["premise"], row["label"], row["example_id"]) for row in rows] == [("c", 1, 1), ("e", 2, 2)]
    assert caplog.messages == [
        f"--data {tmp_path}/dev.tsv: 2 of 4 rows have the label - or -1, because their annotators did not agree; left "
        "out"
    ]


def test_without_any_consensus_all_labels_are_wrong(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.tsv", "mnli", "gold_label\tsentence1\tsentence2\n-1\ta\tb\n-1\tc\td\n")
    assert "; 2 of 2 rows have other labels (-1: 2); -1 marks the hidden labels" in message


def test_a_hyphen_is_no_label_of_another_task(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.tsv", "cola", "label\tsentence\n1\ta\n-\tb\nmaybe\tc\n-\td\n\te\n")
    assert message.startswith(" row 1: label = -, must be an integer from 0 to 1")
    assert message.endswith("; 4 of 5 rows have other labels (-: 2, maybe: 1, missing: 1)")


def test_the_diagnostic_file_of_glue(tmp_path: Path) -> None:
    names = "Lexical Semantics\tLogic\tDomain\tPremise\tHypothesis\tLabel\n"
    (row,) = read(tmp_path / "diagnostic-full.tsv", "mnli", names + "\tx\tNews\tA b.\tC d.\tentailment\n")
    assert (row["premise"], row["hypothesis"], row["label"]) == ("A b.", "C d.", 0)
    message = refusal(tmp_path / "diagnostic.tsv", "mnli", "index\tsentence1\tsentence2\n0\ta\tb\n")
    assert "no column label" in message
    assert message.endswith("test files of GLUE have no labels: give a train or dev file")


def test_qqp_rows_that_lack_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line feed inside a question leaves two short rows. An empty question is a question, as on the hub."""
    names = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    body = [f"{i}\t1\t2\tq{i}\t\t{i % 2}" for i in range(round(2 / TSV_ODD_ROWS))]
    body[7:8] = ["7\t1\t2\tWhat?", "\tWhy?\t0"]
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path / "train.tsv", "qqp", names + "\n".join(body))
    assert (len(rows), rows[7]["question1"], rows[7]["question2"]) == (1999, "q8", "")
    assert caplog.messages == [
        f"--data {tmp_path}/train.tsv line 9 has 4 fields, must have 6; left out: 2 of 2001 rows have another number "
        "of fields"
    ]


def test_json_by_pandas_and_in_other_shapes(tmp_path: Path) -> None:
    want = [("a", 1), ("b", 0)]
    for content in (
        {"sentence": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}},
        {"sentence": ["a", "b"], "label": [1, 0]},
    ):
        for indent in (None, 1):
            rows = read(tmp_path / "a.json", "cola", json.dumps(content, indent=indent))
            assert [(row["sentence"], row["label"]) for row in rows] == want
    message = refusal(tmp_path / "a.json", "cola", '{"sentence": ["a"], "label": [1, 0]}')
    assert message == ": its columns have different rows (sentence 1, label 2); write the file again"
    message = refusal(tmp_path / "a.json", "cola", '{"version": 1,\n "data": [{"sentence": "a", "label": 1}]}')
    assert message.startswith(" is one object whose rows are in data, must be an array of objects or one object a line")


def parquet(labels: list[int], names: list[str]) -> bytes:
    import datasets

    features = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string")}
    texts = [f"{i}" for i in range(len(labels))]
    content = {"premise": texts, "hypothesis": texts, "label": labels}
    split = datasets.Dataset.from_dict(
        content, features=datasets.Features(features | {"label": datasets.ClassLabel(names=names)})
    )
    sink = pa.BufferOutputStream()
    split.to_parquet(sink)
    return bytes(sink.getvalue())


def test_classes_in_another_order_are_taken_by_name(tmp_path: Path) -> None:
    content = parquet([0, 1, 2, -1], ["contradiction", "entailment", "neutral"])
    assert [row["label"] for row in read(tmp_path / "a.parquet", "mnli", content)] == [2, 0, 1]


def test_classes_with_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.parquet"
    with caplog.at_level(logging.WARNING):
        assert [row["label"] for row in read(path, "mnli", parquet([0, 2], ["yes", "maybe", "no"]))] == [0, 2]
    assert caplog.messages == [
        f"--data {path}: its classes have other names than those of --task mnli; yes as entailment, maybe as neutral, "
        "no as contradiction"
    ]
    message = refusal(path, "mnli", parquet([0, 1], ["not_entailment", "entailment"]))
    assert message.startswith(": has the classes not_entailment, entailment, must have entailment, neutral")
