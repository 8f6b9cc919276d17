"""Checkpoints: names and layouts, fresh parameters, what is accepted, and bit-for-bit round trips."""

import re
from pathlib import Path
from typing import Any

import flax
import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoints import BERT, KEY, assert_same, refusal, write, write_sharded
from safetensors.numpy import load_file

from sftref.config import ModelConfig
from sftref.data.batches import Batch
from sftref.model.bert import BertForSequenceClassification
from sftref.model.layers import Numerics
from sftref.model.names import UNUSED, canonical, from_hf, leaves, to_hf
from sftref.model.pretrained import Pretrained, check_target, initial, load_pretrained, save_pretrained
from sftref.model.weights import WEIGHTS

# The first three numbers of the word embeddings for seed 0: a changed stream would change every fresh parameter.
GOLDEN = [-0.0310738962, -0.000132880392, -0.00169489684]
CLASSIFIER = {"classifier.weight", "classifier.bias"}


@pytest.fixture(scope="module")
def tokenizer(tiny: Pretrained) -> Any:
    return tiny.tokenizer()


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
        by_name = {leaf.name: leaf for leaf in leaves(tiny.config)}
        pooler, key = by_name["bert.pooler.dense.weight"], by_name[KEY]
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


class TestSave:
    """Writing: whole or not at all."""

    def test_a_folder_with_other_files_is_left_alone(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        message = refusal(lambda: save_pretrained(tmp_path, tiny.params, tiny.config, tokenizer, tiny.hf_config))
        assert message == (
            f"model folder {tmp_path}: has thesis.tex, must be new, empty or an earlier save; choose another"
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
            "attention_probs_dropout_prob": 0.1,
            "architectures": ["BertForSequenceClassification"],
            "classifier_dropout": None,
            "dtype": "float32",
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "id2label": {"0": "LABEL_0"},
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "is_decoder": False,
            "label2id": {"LABEL_0": 0},
            "num_hidden_layers": 1,
            "num_labels": 1,
            "pad_token_id": 7,
            "position_embedding_type": "absolute",
            "problem_type": "regression",
            "type_vocab_size": 2,
        }

    def test_names_for_other_labels(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        args = (tmp_path / "m", tiny.params, tiny.config, tokenizer, tiny.hf_config)
        message = refusal(lambda: save_pretrained(*args, label_names=("a", "b", "c")))
        assert message == "label_names = a, b, c, must be 2, the model's num_labels"
        assert not (tmp_path / "m").exists()

    def test_parameters_of_another_model(self, tiny: Pretrained, tokenizer: Any, tmp_path: Path) -> None:
        params = {k: v for k, v in tiny.params.items() if k != "pooler"}
        message = refusal(lambda: save_pretrained(tmp_path / "m", params, tiny.config, tokenizer, tiny.hf_config))
        assert message == (
            f"parameters: bert.pooler.dense.weight [32, 32] is missing; give a complete checkpoint of {BERT}"
        )
