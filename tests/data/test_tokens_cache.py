"""The cache of token arrays, whole and damaged: what its key depends on, and what is built again."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wordpieces import FEW, FILES, assert_equal, pairs, real_tokenizer_folder, wordpiece

from sftref.data import tokens
from sftref.data.tasks import get_task
from sftref.data.tokens import TokenArrays, cache_key, load_tokenizer, tokenize

QQP = get_task("qqp")


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
            lambda: cache_key(pairs(FEW), QQP, load_tokenizer(real_tokenizer_folder()), 16),
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
        with caplog.at_level(logging.WARNING, logger="sftref.data.tokens"):
            again = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path)
            assert_equal(again, want)
            assert isinstance(again.input_ids, np.memmap)
            tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path)
        assert len(count) == 2
        (message,) = caplog.messages
        assert message.startswith(f"token cache {folder} is damaged (")
        assert message.endswith("; rebuilding it")
        assert "\n" not in message

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("in the way")
        with caplog.at_level(logging.WARNING, logger="sftref.data.tokens"):
            arrays = tokenize(pairs(FEW), QQP, wordpiece(), 16, tmp_path / "file")
        assert_equal(arrays, tokenize(pairs(FEW), QQP, wordpiece(), 16))
        (message,) = caplog.messages
        assert message.startswith(f"token cache {tmp_path}/file cannot be written (")
        assert message.endswith("); continuing without it")

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
