"""Token arrays against the tokenizer itself, one example at a time; which tokenizers can be loaded."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import transformers
from wordpieces import FAST, FEW, FILES, WORDS, assert_equal, pairs, real_tokenizer_folder, wordpiece

from sftref.config import ConfigError
from sftref.data import tokens
from sftref.data.tasks import get_task
from sftref.data.tokens import TokenArrays, load_tokenizer, tokenize

QQP, COLA, STSB = get_task("qqp"), get_task("cola"), get_task("stsb")


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
    """The arrays MUST be exactly the tokenizer's output for each example, in order."""

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
        tokenizer = load_tokenizer(real_tokenizer_folder())
        texts = [("How do I read Привет, 世界 & naïve café?", "Why?"), ("a" * 300, ""), ("long " * 60, "longer " * 90)]
        arrays = tokenize(pairs(texts), QQP, tokenizer, 128, tmp_path, vocab_size=30522)
        assert_is_what_the_tokenizer_gives(arrays, tokenizer, texts, 128)
        assert arrays.lengths[2] == 128
        assert 0 not in arrays.input_ids  # its own file sets padding to 128, which must not be used

    def test_no_room(self) -> None:
        for task, length, need in ((QQP, 4, 5), (COLA, 2, 3)):
            with pytest.raises(ConfigError) as error:
                tokenize(pairs(FEW), task, wordpiece(), length)
            assert str(error.value) == (
                f"--max-length = {length}, must be at least {need}, the special tokens and one token of each text"
            )

    def test_ids_beyond_the_model(self, tmp_path: Path) -> None:
        for _ in range(2):  # the second time from the cache
            with pytest.raises(ConfigError) as error:
                tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path, vocab_size=12)
            assert str(error.value) == (
                "the tokenizer gives id 12, must be less than the model's vocab_size = 12; use the tokenizer of --model"
            )
        tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path, vocab_size=13)

    def test_types_beyond_the_model(self) -> None:
        with pytest.raises(ConfigError) as error:
            tokenize(pairs(FEW), QQP, wordpiece(), 16, type_vocab_size=1)
        assert str(error.value) == (
            "the tokenizer gives token type 1, must be less than the model's type_vocab_size = 1; if the model has "
            'learned pairs without types, write "model_input_names": ["input_ids", "attention_mask"] into its '
            "tokenizer_config.json"
        )
        one = datasets.Dataset.from_dict({"sentence": ["how you"], "label": [1], "example_id": [3]})
        tokenize(one, COLA, wordpiece(), 8, type_vocab_size=1)
        tokenize(pairs(FEW), QQP, wordpiece(model_input_names=["input_ids", "attention_mask"]), 16, type_vocab_size=1)


class TestLoadTokenizer:
    """A tokenizer that cannot be used MUST end in one line with the way out."""

    def test_a_saved_one(self, tmp_path: Path) -> None:
        wordpiece().save_pretrained(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert isinstance(loaded, FAST)
        assert_equal(tokenize(pairs(FEW), QQP, loaded, 16), tokenize(pairs(FEW), QQP, wordpiece(), 16))

    @pytest.mark.parametrize("content", [None, "{", json.dumps({"version": "1.0"})], ids=["none", "broken", "partial"])
    def test_a_folder_without_a_sound_one(self, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            wordpiece().save_pretrained(tmp_path)
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigError) as error:
            load_tokenizer(tmp_path)
        message = str(error.value)
        assert message.startswith(f"--model {tmp_path}: no tokenizer could be loaded (")
        assert message.endswith("); give a folder with tokenizer.json and tokenizer_config.json")
        assert "\n" not in message

    def test_a_folder_is_never_looked_up_on_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[dict[str, Any]] = []

        def loader(path: Path, **options: Any) -> FAST:
            calls.append(options)
            return wordpiece()

        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", loader)
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
        load_tokenizer(tmp_path)
        assert calls == [{"local_files_only": True}]

    def test_a_slow_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda path, **options: 3)
        with pytest.raises(ConfigError) as error:
            load_tokenizer(tmp_path)
        assert str(error.value) == f"--model {tmp_path}: tokenizer is a int, must be a fast one; add a tokenizer.json"
