"""The update lowered for accelerators that are not present: modules are read, and wrong ones are seen."""

import importlib
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sftref.conformance.adapter import load_adapter
from sftref.conformance.core.fault import changes, faults
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.backend.lowering import replaced
from sftref.conformance.faults.trainers.lowered import FAULTS
from sftref.conformance.faults.trial import LOWERED, run_law, side, trials
from sftref.conformance.judge.mutation_score import level_of
from sftref.conformance.laws.support.stablehlo import Argument, Collective, Module, Product, Tensor
from sftref.conformance.laws.trainer.test_7_invariance import collective_elements
from sftref.conformance.laws.trainer.test_7_lowering import PLATFORMS, foreign, narrow
from sftref.conformance.machine.meshes import shard_map

pytestmark = pytest.mark.jax

SEEDED = [fault for fault in faults().values() if fault.module == LOWERED]
SFTREF = "sftref.conformance.adapters.sftref"
F32 = "f32"


def lowered(function: object, *arguments: object, platform: str = "rocm") -> Module:
    return Module(jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text())  # type: ignore[arg-type]


def mesh(*shape: int) -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(shape), ("data", "model")[: len(shape)])


@pytest.mark.parametrize("name", [f"{SFTREF}:{kind}" for kind in ("mesh", "pmap", "shard_map", "single")])
def test_the_laws_pass_for_sftrefs_trainers(name: str) -> None:
    subject = load_adapter(name)
    for law in ("lowering.reduction", "lowering.precision"):
        record = run_law(laws()[law], {"subject": subject}, Settings(level="standard"))
        assert record.status == ("not_run" if name.endswith("single") and "reduction" in law else "pass"), (
            record.message
        )


@pytest.mark.parametrize(("name", "law"), [(fault.id, law) for fault in SEEDED for law in fault.seen_by])
def test_a_fault_is_seen(name: str, law: str) -> None:
    fault = faults()[name]
    messages = {
        "sums-over-half-of-the-devices": "a sum is taken over: [(0, 1, 2, 3), (4, 5, 6, 7)], should be [(0, 1, ",
        "maximum-over-devices": "how all_reduce joins what two devices hold: 'maximum', should be 'add'",
        "gradients-sent-as-bfloat16": "narrow types in which gradients are reduced: ['bf16'], should be []",
        "rows-on-every-device": "tokens that do not lie in 8 pieces" if law.startswith("low") else "elements moved: 0",
        "products-of-any-precision": "cuda: precisions below float32 that its products ask for: ['DEFAULT']",
        "a-rule-in-bfloat16": "than float32, which the programs for cpu, cuda, tpu have not, first in convert of ",
        "a-psum-beside-the-check": "share reduced beyond that: 1" if law.startswith("low") else "gradient, N = 8",
        "no-psum-without-the-check": "elements reduced: 2," if law.startswith("low") else "gradient, N = 8",
        "a-kernel-of-another-platform": "rocm: kernels of another platform: ['cuda_tanh'], should be []",
    }  # fmt: skip
    assert laws()[law] in side(fault)
    [record] = trials(fault, [(law, Settings(level=level_of("full", fault, law)))])
    assert record.status == "fail", record.message
    assert messages[name].replace("elements moved: 0", "elements moved by collectives: 0") in record.message


@pytest.mark.parametrize("name", ["sums-by-the-check", "sums-written-out"])
def test_a_trainer_that_sums_in_another_right_way_is_right(name: str) -> None:
    change = changes()[name]
    laws_of_change = [(law.id, Settings(level="quick")) for law in side(change)]
    assert [record.status for record in trials(change, laws_of_change)] == ["pass", "pass"]


def test_the_catalogue_has_what_is_seeded() -> None:
    assert sorted(FAULTS) == sorted([fault.id for fault in SEEDED] + ["sums-by-the-check", "sums-written-out"])


def test_a_rule_of_one_platform_is_removed_again() -> None:
    mlir = importlib.import_module("jax._src.interpreters.mlir")

    def rules() -> list[object]:
        return [
            mlir._lowerings.get(lax.tanh_p),
            *(t.get(lax.tanh_p) for t in mlir._platform_specific_lowerings.values()),
        ]

    before, x = rules(), jnp.ones(4)
    with replaced(lax.tanh_p, lambda right, x, **_: right(2 * x), platform="tpu"):
        assert "stablehlo.multiply" in lowered(lambda x: jnp.tanh(x), x, platform="tpu").text
        assert "stablehlo.multiply" not in lowered(lambda x: jnp.tanh(x), x, platform="rocm").text
    assert rules() == before
    assert "stablehlo.multiply" not in lowered(lambda x: jnp.tanh(x), x, platform="tpu").text


def test_products_have_types_and_a_precision() -> None:
    x, w = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 5), jnp.bfloat16)
    left, right = Tensor((2, 3), "bf16"), Tensor((3, 5), "bf16")
    assert lowered(jnp.dot, x, w).products == Counter({Product(left, right, Tensor((2, 5), "bf16"), "DEFAULT"): 1})
    highest = lowered(lambda x, w: jnp.dot(x, w, precision="highest", preferred_element_type=jnp.float32), x, w)
    assert highest.products == Counter({Product(left, right, Tensor((2, 5), F32), "HIGHEST"): 1})


def test_products_in_a_function_count_once_for_each_call() -> None:
    inner = jax.jit(lambda x: x @ x)
    module = lowered(lambda x: inner(inner(inner(x))), jnp.ones((4, 4)))
    assert sum(module.products.values()) == 3


def test_groups_are_read_along_each_axis_of_a_mesh() -> None:
    grid, spec = mesh(2, 4), PartitionSpec("data", "model")
    for axes, groups in {
        "data": ((0, 4), (1, 5), (2, 6), (3, 7)),
        "model": ((0, 1, 2, 3), (4, 5, 6, 7)),
        ("data", "model"): (tuple(range(8)),),
    }.items():
        whole = shard_map(lambda x, axes=axes: lax.psum(x, axes), grid, spec, spec, check=False)
        module = lowered(whole, jnp.ones((2, 4)))
        assert module.collectives == Counter({Collective("all_reduce", (Tensor((1, 1), F32),), "add", groups): 1})
    gathered = shard_map(
        lambda x: lax.all_gather(x, "model"), grid, spec, PartitionSpec("data", None, "model"), check=False
    )
    [collective] = lowered(gathered, jnp.ones((2, 4))).collectives
    assert (collective.kind, collective.joins) == ("all_gather", "")


def test_what_is_in_a_loop_counts_as_often_as_it_runs() -> None:
    """A scan over layers reduces each layer's gradient in its body, which was called a gradient that is not reduced."""
    spec = PartitionSpec("data")

    def scanned(x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return lax.fori_loop(2, 5, lambda k, x: lax.psum(x, "data"), x) @ jnp.eye(4), None

        x = lax.scan(layer, lax.psum(x, "data"), length=6)[0]
        # The length of this loop is not known.
        return lax.while_loop(lambda x: x.sum() < 1, lambda x: lax.psum(x, "data"), x)

    function = shard_map(scanned, mesh(8), spec, PartitionSpec(None), check=False)
    module = lowered(function, jnp.ones((8, 4)))
    assert sum(module.collectives.values()) == 1 + 6 * 3 + 1
    assert sum(module.products.values()) == 6
    compiled = jax.jit(function).lower(jnp.ones((8, 4))).compile().as_text()
    assert collective_elements(compiled) == {"all-reduce": 4 * (1 + 6 * 3 + 1)}


def test_arguments_are_whole_or_in_pieces() -> None:
    grid = mesh(2, 4)

    def placed(*axes: object) -> jax.Array:
        return jax.device_put(np.ones((8, 8), np.float32), NamedSharding(grid, PartitionSpec(*axes)))

    module = lowered(
        lambda *arrays: sum(arrays), placed(), placed("data"), placed(None, "model"), placed(("data", "model"))
    )
    assert module.arguments == [Argument(Tensor((8, 8), F32), pieces) for pieces in (1, 2, 4, 8)]


def test_the_shardings_of_older_releases_are_read() -> None:
    """JAX 0.5 wrote GSPMD's annotations, and listed groups; the last dimension may count copies."""
    text = """
  func.func public @main(%arg0: tensor<8x2xi32> {mhlo.sharding = "{devices=[4,1,2]<=[8] last_tile_dim_replicate}"},
      %arg1: tensor<f32> {mhlo.sharding = "{replicated}"},
      %arg2: tensor<8xf32> {mhlo.sharding = "{devices=[8]<=[8]}"}) -> (tensor<f32>) {
    %1 = "stablehlo.all_reduce"(%0) <{replica_groups = dense<[[0, 1], [2, 3]]> : tensor<2x2xi64>}> ({
    ^bb0(%arg3: tensor<f32>, %arg4: tensor<f32>):
      %2 = stablehlo.add %arg3, %arg4 : tensor<f32>
      stablehlo.return %2 : tensor<f32>
    }) : (tensor<8xf32>) -> tensor<8xf32>
"""
    module = Module(text)
    assert [argument.pieces for argument in module.arguments] == [4, 1, 8]
    assert module.collectives == Counter({Collective("all_reduce", (Tensor((8,), F32),), "add", ((0, 1), (2, 3))): 1})


def test_narrow_types_and_the_platforms_of_kernels() -> None:
    assert narrow({"f32", "bf16", "f8E4M3FN", "f64", "ui8"}) == ["bf16", "f8E4M3FN"]
    names = frozenset({"cublas$gemm", "hipsolver_getrf", "lapack_sgetrf", "mine"})
    assert [foreign(platform, names) for platform in PLATFORMS] == [
        ["hipsolver_getrf"],
        ["cublas$gemm"],
        ["cublas$gemm", "hipsolver_getrf", "lapack_sgetrf"],
    ]


def test_a_module_without_reduction_and_sharding_fails() -> None:
    subject = load_adapter("sftref.conformance.adapters.template:Template")

    class Copies(type(subject)):  # type: ignore[misc]
        def lowered(self, batch: object, platform: str) -> str:
            return lowered(lambda x: x, jnp.ones(3)).text

    record = run_law(laws()["lowering.reduction"], {"subject": Copies()}, Settings(level="quick"))
    assert "whether rows are cut for the partitioner, or gradients reduced: False, should be True" in record.message
