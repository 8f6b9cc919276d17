"""The tokenizer that trains is the one that the folder describes; what is saved is the same one for every reader."""

import json
import logging
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers_brought import CASED, FOLDERS, SECOND, SPECIAL, TEXT, backend, plain, with_file, write
from wordpieces import real_tokenizer_folder, wordpiece

from sftref.config import ConfigError
from sftref.data.tokenizer import check_tables, definition, load_tokenizer, save_tokenizer
from sftref.data.unknown import check_unknown, keeps_capitals, unknown_share

LONG = " ".join([TEXT] * 9)


@pytest.mark.parametrize("case", FOLDERS)
def test_the_folder_decides_and_every_reader_of_a_save_agrees(case: str, tmp_path: Path) -> None:
    make, want = FOLDERS[case]
    tokenizer = load_tokenizer(make(tmp_path / "theirs"))
    assert tokenizer(TEXT, SECOND).input_ids == want
    assert tokenizer(TEXT, SECOND).token_type_ids == [0] * (want.index(3) + 1) + [1] * (len(want) - want.index(3) - 1)
    tokenizer([LONG], truncation=True, max_length=8)
    ours = write(tmp_path / "ours")
    save_tokenizer(tokenizer, ours)
    assert load_tokenizer(ours)(TEXT, SECOND).input_ids == want
    assert transformers.AutoTokenizer.from_pretrained(ours)(TEXT, SECOND).input_ids == want
    small = tokenizers.Tokenizer.from_file(str(ours / "tokenizer.json"))
    assert small.encode(TEXT, SECOND).ids == want
    assert small.encode(LONG).ids == tokenizer(LONG).input_ids
    settings = json.loads((ours / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] in ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast")


def test_a_casing_that_no_file_says_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_tokenizer(write(tmp_path, CASED))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"--model {tmp_path}: no file says whether its tokenizer keeps capitals; it keeps them, because vocab.txt has "
        'words with capitals. To set it, write {"do_lower_case": false} or true into tokenizer_config.json'
    )
    caplog.clear()
    uncased = [*SPECIAL, *(f"w{i}" for i in range(99)), "NASA"]  # one word that a user added
    assert load_tokenizer(write(tmp_path, uncased))("W1").input_ids == [2, 6, 3]
    assert not caplog.records


def test_the_real_tokenizer_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(real_tokenizer_folder())
    # The module of this class imports torch, where it is installed.
    monkeypatch.delattr(transformers.AutoTokenizer, "from_pretrained")
    tokenizer = load_tokenizer(real_tokenizer_folder())
    assert definition(tokenizer) == definition(theirs)
    assert type(tokenizer) is type(theirs)
    assert type(tokenizer).__name__.startswith("BertTokenizer")
    check_tables(tokenizer, 30522, "m")
    assert not caplog.records


NEED = "give a folder with tokenizer.json and tokenizer_config.json"
AGAIN = "copy or download"
EMPTY = f"PATH/vocab.txt is empty, must have one token per line; {AGAIN} it again"
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no files": (write, f"no tokenizer could be loaded (no tokenizer.json and no vocab.txt, but config.json); {NEED}"),
    "SentencePiece": (
        lambda p: (write(p) / "spiece.model").write_bytes(b"x"),
        f"no tokenizer could be loaded (no tokenizer.json and no vocab.txt, but config.json, spiece.model); {NEED}",
    ),
    "BPE": (
        lambda p: [(write(p) / name).write_text("{}") for name in ("vocab.json", "merges.txt")],
        "no tokenizer could be loaded (no tokenizer.json and no vocab.txt, but config.json, merges.txt, vocab.json); "
        + NEED,
    ),
    "empty vocab.txt": (lambda p: write(p, []), EMPTY),
    "blank vocab.txt": (lambda p: write(p, ["", ""]), EMPTY),
    "byte order mark": (
        lambda p: write(p, ["\ufeff[PAD]", *CASED[1:]]),
        "PATH/vocab.txt begins with a byte order mark, which would be part of its first token; save it as UTF-8 "
        "without this mark",
    ),
    "special tokens only": (
        lambda p: write(p, SPECIAL),
        f"its tokenizer has no words, only [CLS], [MASK], [PAD], [SEP], [UNK]; {AGAIN} its files again",
    ),
    # https://github.com/huggingface/tokenizers/issues/168
    "no [UNK]": (
        lambda p: write(p, ["<pad>", "<unk>", "<s>", "</s>", *CASED[5:]]),
        "the vocabulary of its tokenizer lacks [UNK], the token of an unknown word; name the one that it has in "
        "tokenizer_config.json (unk_token)",
    ),
    # https://github.com/huggingface/tokenizers/issues/1481
    "no post-processor": (
        with_file(plain(), config={"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
        "its tokenizer adds no special tokens to a text, must add [CLS] and [SEP], because a BERT classifies by "
        "[CLS]; set a post_processor in tokenizer.json",
    ),
    "two files contradict": (
        with_file(backend(), config={"tokenizer_class": "BertTokenizer", "do_lower_case": True}),
        "do_lower_case = true in tokenizer_config.json, must be false, as lowercase in tokenizer.json; correct one of "
        "the two files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_tokenizer_is_refused(case: str, tmp_path: Path) -> None:
    make, want = REFUSED[case]
    make(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_tokenizer(tmp_path)
    assert str(error.value) == f"--model {tmp_path}: " + want.replace("PATH", str(tmp_path))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (write(tmp_path) / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ConfigError, match=r"no tokenizer could be loaded \('utf-8' codec.*\); give a folder with"):
        load_tokenizer(tmp_path)


class TestTables:
    """A tokenizer is compared with the table of the model."""

    def test_a_special_token_without_a_row(self) -> None:
        with pytest.raises(ConfigError) as error:
            check_tables(wordpiece(), 3, "m")
        assert str(error.value) == (
            "m: its tokenizer has the special tokens [SEP] = 3, must have ids below the model's vocab_size = 3; name "
            "the special tokens of its vocabulary in tokenizer_config.json (unk_token, cls_token, sep_token, "
            "pad_token)"
        )

    def test_a_mask_is_not_needed(self, tmp_path: Path) -> None:
        words = [word for word in CASED if word != "[MASK]"]
        tokenizer = load_tokenizer(write(tmp_path, words, config={"do_lower_case": False}))
        check_tables(tokenizer, len(words), "m")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (13, None),
            (13 + 1023, None),  # padded for tensor parallelism
            (13 + 1024, "a table of 1037; check that the tokenizer is the model's"),
            (12, "a table of 12; the last tokens cannot be used in a text"),
        ],
    )  # fmt: skip
    def test_sizes(self, rows: int, message: str | None, caplog: pytest.LogCaptureFixture) -> None:
        check_tables(wordpiece(), rows, "m")
        want = [f"m: its tokenizer has 13 tokens, its model has {message}"] if message else []
        assert [record.getMessage() for record in caplog.records] == want


class TestUnknown:
    """The share of unknown words is logged; a tokenizer that knows few of them is refused."""

    @pytest.mark.parametrize(
        ("text", "share"),
        [
            ("how old are you", 0), ("how zzz", 1 / 2), ("zzz ? ? ?", 1), ("привет, ? мир ?", 1), ("? ?", 0),
            ("ages you zzz", 1 / 4), ("olds", 0), ("", 0),
        ],
    )  # fmt: skip
    def test_share(self, text: str, share: float) -> None:
        tokenizer = wordpiece()
        ids = np.array(tokenizer(text).input_ids, np.int32)
        assert unknown_share(tokenizer, ids) == (1 if text.startswith("привет") else share)

    def test_a_tokenizer_that_knows_every_text(self) -> None:
        tokenizer = wordpiece()
        tokenizer.unk_token = None
        assert unknown_share(tokenizer, np.array([2, 1, 3], np.int32)) == 0

    @pytest.mark.parametrize(("unknown", "level"), [(0, None), (1, logging.WARNING), (50, logging.WARNING), (51, None)])
    def test_limits(self, unknown: int, level: int | None, caplog: pytest.LogCaptureFixture) -> None:
        ids = np.array([2, *[1] * unknown, *[5] * (100 - unknown), 3], np.int32)
        text = f"train: {unknown}.0% of the words are unknown to the tokenizer of --model"
        if unknown > 50:
            with pytest.raises(ConfigError) as error:
                check_unknown(wordpiece(), ids, "train")
            assert str(error.value) == (
                f"{text}, must be at most 50%; use the model's own tokenizer, or a model for this language"
            )
        else:
            check_unknown(wordpiece(), ids, "train")
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == (
            [(level, text)] if level else []
        )

    def test_capitals_that_the_vocabulary_lacks(self, tmp_path: Path) -> None:
        lower = [*SPECIAL, "paris", "is"]
        assert keeps_capitals(load_tokenizer(write(tmp_path / "a", lower, config={"do_lower_case": False})))
        assert not keeps_capitals(load_tokenizer(write(tmp_path / "b", lower, config={"do_lower_case": True})))
        assert not keeps_capitals(load_tokenizer(write(tmp_path / "c", CASED, config={"do_lower_case": False})))


READER = """
import json, sys
from pathlib import Path
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer
seen = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    ids = AutoTokenizer.from_pretrained(folder)(*sys.argv[2:4]).input_ids
    assert ids == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(*sys.argv[2:4]).ids, folder
    assert AutoConfig.from_pretrained(folder).model_type == "bert"
    seen[folder.name] = ids
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("release", ["4.57.6", "5.24.0"])
def test_a_save_opens_in_transformers_4_and_5(release: str, tmp_path: Path) -> None:
    names = {f"{i:02d}": name for i, name in enumerate(FOLDERS)}
    for number, name in names.items():
        save_tokenizer(
            load_tokenizer(FOLDERS[name][0](tmp_path / "theirs" / number)), write(tmp_path / "ours" / number)
        )
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"transformers=={release}"], check=True)
    command = [python, "-c", READER, str(tmp_path / "ours"), TEXT, SECOND]
    # Not the packages of this process, which tox may have put on the path.
    read = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": ""})
    assert json.loads(read.stdout) == {number: FOLDERS[name][1] for number, name in names.items()}
