"""The laws of rungs 0 and 1 see seeded faults."""

import contextlib
import ctypes
import os
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kit import numbers, run_law
from sftref.conformance.core.check import LawBroken, NotRun
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import FAULTS, NumpyTrainer
from sftref.conformance.laws.machine import test_0_environment as rung0
from sftref.conformance.laws.machine import test_1_programs as programs
from sftref.conformance.laws.support import compilation

pytestmark = pytest.mark.jax

N = 4
FOUR = Settings(level="quick", devices=N)
STANDARD = Settings()


def test_an_installation_that_is_not_the_one_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version__", "0.4.99")
    with pytest.raises(LawBroken, match=r"version of the imported jax .*'0\.4\.99', should be"):
        run_law("environment.versions")


def test_a_wrong_copy_is_left_to_rung_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit is flipped in arrays of 1 MiB and more: rung 0 called that a fault of the environment."""
    put = jax.device_put

    def flipped(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.nbytes >= 2**20:
            leaf = leaf.copy()
            leaf.view(np.uint8).reshape(-1)[leaf.nbytes // 2] ^= 1
        return leaf

    monkeypatch.setattr(jax, "device_put", lambda x, *to, **how: put(jax.tree.map(flipped, x), *to, **how))
    run_law("environment.messages", FOUR)
    with pytest.raises(LawBroken):
        run_law("copies.round_trip", FOUR)


@pytest.mark.parametrize("platform", ["gpu", "rocm", "cuda", "tpu"])
def test_a_missing_platform_fails(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    settings = Settings(platform=platform)
    with pytest.raises(LawBroken, match=f"JAX_PLATFORMS=cpu: 'cpu', should be '{platform}'"):
        run_law("environment.platform", settings)
    monkeypatch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(RuntimeError("Unable to initialize backend")))
    with pytest.raises(LawBroken, match=f"Unable to initialize backend', should be '{platform}'"):
        run_law("environment.platform", settings)


@pytest.mark.parametrize(
    ("names", "requested", "passes"),
    [
        (["gpu", "rocm"], "rocm", True),
        (["gpu", "rocm"], "gpu", True),
        (["gpu", "rocm"], None, True),
        (["gpu", "rocm"], "cuda", False),
        (["gpu", "cuda"], "rocm", False),
    ],
)
def test_gpus_of_one_maker_are_not_those_of_another(
    names: list[str], requested: str | None, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rung0, "names_of", lambda _: names)
    if passes:
        assert run_law("environment.platform", Settings(platform=requested)).facts["platform"] == names[-1]
    else:
        with pytest.raises(LawBroken, match=f"'{names[-1]}', should be '{requested}'"):
            run_law("environment.platform", Settings(platform=requested))


@pytest.mark.parametrize(
    ("expect", "kind", "capability", "passes"),
    [
        ("rocm:8:gfx942", "AMD Instinct MI300X", "gfx942", True),  # jax-ml/jax PR 37634, 38883
        ("rocm:8:MI300X", "AMD Instinct MI300X", "gfx942", True),
        ("rocm:8:gfx942", "AMD Instinct MI300X", "gfx942:sramecc+:xnack-", True),
        ("rocm:8:gfx942", "gfx942", None, True),
        ("rocm:8:gfx90a", "AMD Instinct MI300X", "gfx942", False),
        ("rocm:8:gfx94", "AMD Instinct MI300X", "gfx942", False),
        ("rocm:4:gfx942", "AMD Instinct MI300X", "gfx942", False),
        ("cuda:8:9.0", "NVIDIA H100 80GB HBM3", "9.0", True),
        ("cuda:8:sm_90", "NVIDIA H100 80GB HBM3", "9.0", True),
        ("cuda:8:h100", "NVIDIA H100 80GB HBM3", "9.0", True),
        ("cuda:8:sm_80", "NVIDIA H100 80GB HBM3", "9.0", False),
        ("tpu:8:v5e", "TPU v5e", None, True),
        ("rocm:8", "AMD Instinct MI300X", "gfx942", True),
    ],
)
def test_expected_devices_match_by_name_or_architecture(
    expect: str, kind: str, capability: str | None, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = expect.partition(":")[0]
    device = SimpleNamespace(platform="gpu", device_kind=kind, client=SimpleNamespace(platform_version=platform))
    if capability is not None:
        device.compute_capability = capability
    monkeypatch.setattr(rung0, "names_of", lambda _: ["gpu", platform])
    monkeypatch.setattr(jax, "devices", lambda: [device] * 8)
    if passes:
        run_law("environment.platform", Settings(expect=expect))
    else:
        with pytest.raises(LawBroken, match=f"--expect {expect}"):
            run_law("environment.platform", Settings(expect=expect))


def test_versions_that_do_not_match_block_nothing() -> None:
    """Kernels may run with them: rung 0 and those above it show whether they do."""
    assert [law.id for law in laws().values() if not law.blocks] == ["environment.versions"]


def test_an_eager_result_that_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last device plays the accelerator, and has all arrays except the results of eager operations."""
    cpu, accelerator = jax.devices()[0], jax.devices()[-1]
    monkeypatch.setattr(rung0, "names_of", lambda device: ["cpu"] if device == cpu else ["gpu", "rocm"])
    monkeypatch.setattr(jax, "devices", lambda: [accelerator])
    with jax.default_device(accelerator):
        run_law("environment.platform", Settings(platform="rocm"))
        asarray = jnp.asarray
        monkeypatch.setattr(jnp, "asarray", lambda x: jax.device_put(asarray(x), cpu))
        with pytest.raises(LawBroken, match=r"platform of an eager operation.*: 'cpu', should be 'rocm'"):
            run_law("environment.platform", Settings(platform="rocm"))


def test_too_few_devices_or_work_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = jax.devices()
    with pytest.raises(LawBroken, match="number of devices: 2, should be 4"):
        run_law("environment.devices", Settings(devices=4), devices=devices[:2])
    with pytest.raises(LawBroken, match="number of distinct devices: 1, should be 2"):
        run_law("environment.devices", Settings(), devices=[devices[1]] * 2)
    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, device: put(x, devices[0]))
    with pytest.raises(LawBroken, match=r"where .*1 left its result"):
        run_law("environment.devices", Settings(), devices=devices[:2])


@pytest.mark.parametrize(
    ("place", "name", "wrong", "family"),
    [
        (jnp, "matmul", lambda a, b: jnp.dot(a, b) * (1 + 2.0**-12), "matmul, eager"),
        (jnp, "sort", lambda x, axis: x, "sort"),
        (jnp, "tanh", lambda x: x, "elementwise"),
        (jax.random, "uniform", lambda key, shape, *dtype: jnp.full(shape, 0.5, *dtype), "uniform"),
    ],
)
def test_a_kernel_that_computes_the_wrong_function(
    place: Any, name: str, wrong: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = family.partition(",")[0]
    ours, *rest = rung0.families(numbers())[key]
    monkeypatch.setattr(rung0, "families", lambda _: {key: (wrong if name == "matmul" else ours, *rest)})
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(LawBroken, match=family):
        run_law("environment.kernels", FOUR)


def test_a_message_of_kernels_that_disagree(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    line = b"E0000 gemm_fusion_autotuner.cc:1060] Results mismatch between different kernels\n"

    def product(a: Any, b: Any) -> Any:
        os.write(2, line)
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    monkeypatch.setattr(rung0, "_product", product)
    with pytest.raises(LawBroken, match="Results mismatch between different kernels"):
        run_law("environment.messages", FOUR)
    assert "Results mismatch" in capfd.readouterr().err, "captured lines are passed on"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    with pytest.raises(NotRun, match="hides XLA's errors"):
        run_law("environment.messages", FOUR)


def zeroed(x: Any, place: Any) -> Any:
    """Every copy to the second device arrives as zeros."""
    put = _PUT(x, place)
    return put if place != jax.devices()[1] else _PUT(np.zeros(x.shape, x.dtype), place)


def one_way(x: Any, place: Any) -> Any:
    """One word is wrong from the third device to the second; host copies are right."""
    put = _PUT(x, place)
    if isinstance(x, jax.Array) and x.devices() == {jax.devices()[2]} and place == jax.devices()[1] and x.size > 1024:
        return put.at[1024].add(1)
    return put


def other_order(x: Any, place: Any) -> Any:
    """Blocks are placed in the order of the devices' ids, not of the mesh."""
    mesh = place.mesh
    by_id = sorted(mesh.devices.flat, key=lambda device: device.id)
    ordered = jax.sharding.Mesh(np.array(by_id).reshape(mesh.devices.shape), mesh.axis_names)
    return _PUT(x, jax.sharding.NamedSharding(ordered, place.spec))


_PUT = jax.device_put


@pytest.mark.parametrize(
    ("law", "put", "message"),
    [
        ("copies.round_trip", zeroed, "1 words through .*1: error 1"),
        ("copies.between_devices", one_way, r"1025 words from .*2 to .*1: error 0\.000976"),
        ("copies.sharded", other_order, "shard of .*: error"),
    ],
)
def test_copies_that_go_wrong(law: str, put: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_put", put)
    with pytest.raises(LawBroken, match=message):
        run_law(law, FOUR)


def test_a_copy_that_shares_memory_fails_and_device_put_is_a_hazard(monkeypatch: pytest.MonkeyPatch) -> None:
    check = run_law("copies.host_buffer", devices=jax.devices()[:1])
    if check.facts["followed"]["64-byte aligned"]:
        assert "device_put keeps the caller's buffer" in check.facts["hazard"]
    monkeypatch.setattr(jnp, "array", lambda x, device: x)
    with pytest.raises(LawBroken, match=r"what jnp\.array copied"):
        run_law("copies.host_buffer", devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("keeps-the-callers-buffer", "loss of the first update with buffers"),
        ("writes-into-the-batch", "input_ids after step 0, which must not write to it"),
        ("parameters-are-views", r"as params\(\) gave it, one update later"),
    ],
)
def test_a_trainer_that_is_not_immune(fault: str, message: str) -> None:
    with pytest.raises(LawBroken, match=message):
        run_law("copies.trainer_is_immune", STANDARD, subject=FAULTS[fault]())


def test_a_trainer_that_copies_is_immune() -> None:
    run_law("copies.trainer_is_immune", STANDARD, subject=NumpyTrainer())


@pytest.mark.parametrize("n", [1, 3, N])
def test_donated_and_kept_programs_pass_on_any_number_of_devices(n: int) -> None:
    check = run_law("copies.donated", devices=jax.devices()[:n])
    assert check.facts["arguments_taken_over"] == programs.LEAVES * programs.STEPS * (2 if n == 1 else 2 + 4)
    run_law("copies.kept_programs", STANDARD, devices=jax.devices()[:n])


def test_a_platform_that_keeps_no_programs_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "kept_in", lambda _: contextlib.nullcontext([]))
    with pytest.raises(NotRun, match="does not apply: JAX keeps no programs of cpu"):
        run_law("copies.kept_programs", STANDARD)


def test_an_update_that_writes_to_its_batch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = programs.program

    def wrong(order: str, sharding: Any, **how: Any) -> Any:
        def step(leaves: list[Any], batch: Any) -> Any:
            outputs = jax.block_until_ready(right(order, sharding, **how)(leaves, batch))
            ctypes.memset(batch.addressable_shards[0].data.unsafe_buffer_pointer(), 0, 4)
            return outputs

        return step

    monkeypatch.setattr(programs, "program", wrong)
    with pytest.raises(LawBroken, match="first, update 0: its batch, which it must not write to: error"):
        run_law("copies.donated", FOUR)
