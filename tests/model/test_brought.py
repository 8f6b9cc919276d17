"""Checkpoints as people bring them: names in wrappers, weights of other programs, and the folder that is saved."""

import os
import re
import stat
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import assert_same, refusal, write

from sftref.model.names import canonical
from sftref.model.pretrained import Pretrained, load_pretrained, save_pretrained
from sftref.model.weights import CONFIG, WEIGHTS

WRAPPED = {
    "DataParallel": lambda name: "module." + name,  # https://github.com/pytorch/pytorch/issues/9176
    "torch.compile": lambda name: "_orig_mod." + name,
    "both": lambda name: "module._orig_mod." + name,
    "compiled inside": lambda name: name.replace("bert.", "bert._orig_mod."),
    "FSDP": lambda name: re.sub(r"(layer\.\d)", r"\1._fsdp_wrapped_module", "_fsdp_wrapped_module." + name),
    "attribute of another module": lambda name: "model." + name,
    "attribute of a wrapped one": lambda name: "module.student.net." + name,
    "bare encoder as an attribute": lambda name: name.replace("bert.", "encoder."),
    "wrapped bare encoder": lambda name: "module." + name.removeprefix("bert."),
    "old names in a wrapper": lambda name: "module." + name.replace("LayerNorm.weight", "LayerNorm.gamma"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_names_in_a_wrapper(case: str, tiny: Pretrained, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
    renamed = {WRAPPED[case](name): value for name, value in flat.items()}
    assert len(renamed.keys() - flat.keys()) > 30
    assert_same(load_pretrained(str(write(tmp_path, renamed)), num_labels=2).params, tiny.params)


@pytest.mark.parametrize("made_by", [None, [], ["BertModel"], ["BertForMaskedLM"], ["BertForSequenceClassification"]])
def test_the_config_of_the_model_that_was_fine_tuned(
    made_by: Any, tiny: Pretrained, flat: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A program of one's own saves its classifier under the config.json that it has read."""
    folder = write(tmp_path, flat, architectures=made_by)
    assert_same(load_pretrained(str(folder), num_labels=2).params, tiny.params)


@pytest.mark.parametrize("prefix", ["roberta.", "model.roberta.", "distilbert.", "electra."])
def test_names_of_another_encoder_are_no_wrapper(prefix: str) -> None:
    names = [f"{prefix}embeddings.word_embeddings.weight", f"{prefix}encoder.layer.0.output.dense.bias"]
    assert list(canonical(names)) == names


def test_two_encoders_are_not_mixed() -> None:
    names = [f"{model}.bert.embeddings.word_embeddings.weight" for model in ("student", "teacher")]
    assert list(canonical(names)) == names


FOREIGN = [
    (["adapter_config.json", "adapter_model.safetensors"], "it has adapter_config.json, a PEFT adapter; merge it into"),
    (
        ["bert_model.ckpt.index", "bert_config.json"],
        "it has bert_model.ckpt.index, a TensorFlow checkpoint; load it in",
    ),
    (["tf_model.h5", CONFIG], "it has tf_model.h5, TensorFlow weights; load them in transformers 4 with from_tf=True"),
    (["flax_model.msgpack", CONFIG], "it has flax_model.msgpack, Flax weights; load them in transformers 4 with"),
    (["model.onnx", CONFIG], "it has model.onnx, an exported model; choose the model that it was made from"),
    (["q4.gguf"], "it has q4.gguf, a quantized model; choose the model that it was made from"),
    (
        ["pytorch_model-00001-of-00002.bin", CONFIG],
        "it has pytorch_model-00001-of-00002.bin, PyTorch weights; run there",
    ),
    (["best.pt", "optimizer.pt", "rng_state_0.pth", CONFIG], "it has best.pt, PyTorch weights; run there, with torch"),
    (["training_args.bin", "checkpoint-9/config.json"], "a folder in it has one: give DIR/checkpoint-9"),
    (["0_Transformer/config.json", "modules.json"], "a folder in it has one: give DIR/0_Transformer"),
    (["training_args.bin", CONFIG], "give another folder or hub id"),
    (["README.md"], "give a folder with config.json and model.safetensors"),
]


@pytest.mark.parametrize(("files", "want"), FOREIGN, ids=[files[0] for files, _ in FOREIGN])
def test_a_folder_without_a_model_is_explained(files: list[str], want: str, tmp_path: Path) -> None:
    write(tmp_path, {})
    text = (tmp_path / CONFIG).read_text()
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / CONFIG).unlink()
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text if name.endswith(CONFIG) else "")
    message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
    assert re.search(
        r"(config\.json is missing|has neither model\.safetensors nor model\.safetensors\.index\.json); ", message
    )
    assert "; " + want.replace("DIR", str(tmp_path)) in message


STATES: dict[str, Any] = {
    "plain": lambda flat: flat,
    "wrapped": lambda flat: {"state_dict": flat, "epoch": 3},
    "beside an optimizer": lambda flat: {
        "optimizer": {"state": {0: {"exp_avg": np.zeros(2)}}, "param_groups": [{"lr": 0.1}]}, "step": 7, "model": flat,
    },
    "twice": lambda flat: {"checkpoint": {"state_dict": flat}, "args": {"lr": 0.1}},
    "with numbers": lambda flat: flat | {"num_updates": 12, "version": "1.0", "config": None},
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_the_printed_command_converts_what_people_save(
    case: str, tiny: Pretrained, flat: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command runs here with a `torch` of five lines, whose tensors are NumPy arrays."""
    from safetensors.numpy import save_file

    class Tensor(np.ndarray):
        def clone(self) -> Any:
            return self.copy()

        def contiguous(self) -> Any:
            return np.ascontiguousarray(self)

    def is_tensor(value: Any) -> bool:
        return isinstance(value, Tensor)

    write(tmp_path, {})
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / "pytorch_model.bin").write_text("")
    state = STATES[case]({name: value.view(Tensor) for name, value in flat.items()})
    message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
    code = re.fullmatch(r'.*run there, with torch: python -c "(.*)"', message)
    assert code is not None
    torch = types.SimpleNamespace(load=lambda path, **options: state, is_tensor=is_tensor)
    writer = types.SimpleNamespace(save_file=save_file)
    for name, module in {"torch": torch, "safetensors.torch": writer}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("safetensors.torch", writer, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(code[1], {})
    assert_same(load_pretrained(str(tmp_path), num_labels=2).params, tiny.params)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_save_can_be_read_by_those_whom_the_umask_lets(
    umask: int, mode: int, tiny: Pretrained, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        save_pretrained(tmp_path / "m", tiny.params, tiny.config, tiny.tokenizer(), tiny.hf_config)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "m").iterdir()}
    assert modes == dict.fromkeys([CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json"], mode)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o777 & ~umask
