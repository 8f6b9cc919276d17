"""The laws of rung 2 see seeded faults, and their data differs between devices and positions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from kit import numbers, run_law
from sftref.conformance.core.check import Check, Known, LawBroken, NotRun
from sftref.conformance.core.fault import faults
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trial import trials
from sftref.conformance.laws.machine import test_2_collectives as rung2
from sftref.conformance.laws.machine import test_2_partitioner as partitioner
from sftref.conformance.laws.support.messages import REDUCTIONS, compare_non_finite, non_finite
from sftref.conformance.machine.meshes import DTYPES, coded, exact_limit, summed

pytestmark = pytest.mark.jax

N = 4
FOUR = Settings(level="quick", devices=N)

psum, pmax, pmin, all_gather = lax.psum, lax.pmax, lax.pmin, lax.all_gather
psum_scatter, all_to_all, ppermute = lax.psum_scatter, lax.all_to_all, lax.ppermute


@pytest.mark.parametrize("n", [2, 3, 8, 16, 64, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_contribution_counts(n: int, dtype: np.dtype[Any]) -> None:
    """Sums are exact in every order of addition; dropping or doubling one device's part changes every element."""
    stacked = coded(numbers(), n, 3 * n + 1, dtype)
    total = summed(stacked)
    if dtype.kind in "fV":
        assert float(stacked.astype(np.float64).min()) >= 1
        assert float(total.max()) <= (exact_limit(dtype) or 0)
    for dropped in range(n):
        assert (summed(np.delete(stacked, dropped, axis=0)) != total).all()
    limit = exact_limit(dtype)
    if limit is None or limit >= 4 * n * n:  # enough values for each device to have its own code
        assert all(len(set(stacked[:, at].tolist())) == n for at in range(3 * n + 1))
        winners = set(np.argmax(stacked[:, :n].astype(np.float64), axis=0).tolist())
        assert winners == set(range(n)) or dtype.kind in "iu"


def last(axis: Any) -> Any:
    return lax.axis_index(axis) == N - 1


def spike(x: Any, place: int) -> Any:
    return (jnp.arange(x.size) == place).astype(x.dtype)


def ring(x: Any, axis: Any) -> Any:
    return ppermute(x, axis, [(i, (i + 1) % N) for i in range(N)])


# Of each collective, wrong ones, and where its law sees them.
FAULTS: dict[str, dict[str, tuple[Any, str]]] = {
    "psum": {
        "missing": (lambda x, axis: x, "4 B of float32"),
        "a mean": (lambda x, axis: psum(x, axis) / N, "4 B of float32"),
        "one dropped": (lambda x, axis: psum(jnp.where(last(axis), 0, x), axis), "4 B of float32"),
        "one twice": (lambda x, axis: psum(jnp.where(last(axis), 2 * x, x), axis), "4 B of float32"),
        "one for another": (lambda x, axis: psum(jnp.where(last(axis), ring(x, axis), x), axis), "4 B of float32"),
        "one shifted": (lambda x, axis: psum(jnp.where(last(axis), jnp.roll(x, 1), x), axis), "4 B of bfloat16"),
        "in bfloat16": (lambda x, axis: psum(x.astype(jnp.bfloat16), axis), "B of float32"),
        "at one size": (lambda x, axis: psum(x, axis) + (x.nbytes == 524284), "524284 B of float32"),
        "of one dtype": (lambda x, axis: psum(x, axis) + (x.dtype == jnp.uint32), "4 B of uint32"),
        "on one device": (lambda x, axis: psum(x, axis) + last(axis), "4 B of float32"),
        "one element": (lambda x, axis: psum(x, axis) + spike(x, 1023 * 128), "524284 B of float32"),
    },
    "pmean": {
        "a sum": (lambda x, axis: psum(x, axis), ""),
        "over another number": (lambda x, axis: psum(x, axis) / (N - 1), ""),
    },
    "pmax": {
        "one left out": (lambda x, axis: pmax(jnp.where(last(axis), 0, x), axis), ""),
        "unsigned": (lambda x, axis: pmax(abs(x), axis), ""),
    },
    "pmin": {"begins at zero": (lambda x, axis: jnp.minimum(pmin(x, axis), 0), "")},
    "all_gather": {
        "backwards": (lambda x, axis, tiled: all_gather(x, axis, tiled=tiled)[::-1], ""),
        "one is zero": (lambda x, axis, tiled: all_gather(jnp.where(last(axis), 0, x), axis, tiled=tiled), ""),
    },
    "psum_scatter": {
        "parts of a neighbour": (lambda x, axis, tiled: psum_scatter(jnp.roll(x, x.size // N), axis, tiled=tiled), ""),
    },
    "all_to_all": {
        "nothing moves": (lambda x, *_, tiled: x, ""),
        "columns as rows": (lambda x, *how, tiled: all_to_all(x, *how, tiled=tiled)[:: -1 if how[1] else 1], ""),
    },
    "ppermute": {
        "the wrong way": (lambda x, axis, pairs: ppermute(x, axis, [pair[::-1] for pair in pairs]), ""),
        "old content": (lambda x, *how: jnp.where(ppermute(x, *how) == 0, x, ppermute(x, *how)), ""),
    },
}


def replace(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Any) -> None:
    """Replace a collective where the laws look it up; results keep the dtype."""
    monkeypatch.setattr(lax, name, lambda x, *rest, **words: jnp.asarray(wrong(x, *rest, **words)).astype(x.dtype))


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
def test_a_wrong_collective_is_seen(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, where = FAULTS[name][fault]
    replace(monkeypatch, name, wrong)
    with pytest.raises(LawBroken, match=f"{name}, .*{where}.* on {N} devices: error"):
        run_law(f"collectives.{name}", FOUR)


def test_a_mean_over_a_number_that_is_no_power_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    run_law("collectives.pmean", devices=jax.devices()[:3])
    replace(monkeypatch, "pmean", lambda x, axis: psum(jnp.where(lax.axis_index(axis) == 1, x + 2, x), axis) / 3)
    with pytest.raises(LawBroken, match=r"bound 4 \(rounded reciprocal"):
        run_law("collectives.pmean", devices=jax.devices()[:3])


def test_groups_that_are_ignored_or_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lax, "pmax", lambda x, axis, axis_index_groups: pmax(x, axis))
    with pytest.raises(LawBroken, match="pmax, groups of 2 neighbours, 3072 B"):
        run_law("collectives.subgroups", FOUR)
    monkeypatch.setattr(lax, "pmax", pmax)

    def contiguous(x: Any, axis: Any, axis_index_groups: Any) -> Any:
        neighbours = [[0, 1], [2, 3]] if axis_index_groups == [[0, 2], [1, 3]] else axis_index_groups
        return psum(x, axis, axis_index_groups=neighbours)

    monkeypatch.setattr(lax, "psum", contiguous)
    with pytest.raises(LawBroken, match=r"psum, groups of every 2\., 3072 B"):
        run_law("collectives.subgroups", FOUR)


@pytest.mark.parametrize("wrong", ["model", ("data", "model")])
def test_an_axis_taken_for_another(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lax, "psum", lambda x, axis, axis_index_groups: psum(x, wrong if axis == "data" else axis))
    with pytest.raises(LawBroken, match=r"psum, axis data of \(2, 2\)"):
        run_law("collectives.two_axes", FOUR)


def test_pmap_on_other_devices_or_with_parts_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    pmap = jax.pmap
    monkeypatch.setattr(jax, "pmap", lambda f, axis, devices: pmap(f, axis, devices=jax.devices()[N:]))
    with pytest.raises(LawBroken, match="devices of pmap's result, N = 4"):
        run_law("collectives.pmap", FOUR)
    monkeypatch.setattr(jax, "pmap", lambda f, axis, devices: pmap(lambda x: f(x[::-1]), axis, devices=devices))
    with pytest.raises(LawBroken, match="psum, pmap, N = 4"):
        run_law("collectives.pmap", FOUR)


def test_a_fault_that_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = rung2.on_each

    def sometimes(*program: Any) -> Any:
        call, times = compiled(*program), []

        def run(*stacked: Any) -> Any:
            times.append(1)
            got = [np.array(leaf) for leaf in call(*stacked)]
            got[1][2, 5] += len(times) == 17
            return got

        return run

    monkeypatch.setattr(rung2, "on_each", sometimes)
    with pytest.raises(LawBroken, match="psum of 3072 B, time 16: error"):
        run_law("collectives.repeated", FOUR)


@pytest.mark.parametrize(
    ("program", "wrong"),
    [
        ("sum over a sharded axis", lambda v: v[: len(v) - len(v) // N].sum(0)),
        ("matmul, contraction sharded", lambda a, b: a[:, ::2] @ b[::2]),
        ("scatter-add, table sharded", lambda i, u: jnp.zeros((5 * N, u.shape[1]), u.dtype).at[i + 1].add(u)),
        ("rows to columns", lambda v: jnp.roll(v, 1, 1) + 1),
    ],
)
def test_a_partitioned_program_that_is_wrong(program: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = partitioner.programs

    def one_wrong(*drawn: Any) -> Any:
        return [dataclasses.replace(one, ours=wrong) for one in programs(*drawn) if one.name == program]

    monkeypatch.setattr(partitioner, "programs", one_wrong)
    with pytest.raises(LawBroken, match=f"{program}, mesh .*, device after device: error"):
        run_law("collectives.partitioner", FOUR)


def test_a_wrong_program_that_needs_the_whole_mesh_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be rerun on one device, which was reported as an error of the law."""
    programs, name = partitioner.programs, "sum over an axis that does not divide"

    def one_wrong(*drawn: Any) -> Any:
        right = next(one for one in programs(*drawn) if one.name == name)
        return [dataclasses.replace(right, ours=lambda v: right.ours(v) + 1)]

    monkeypatch.setattr(partitioner, "programs", one_wrong)
    with pytest.raises(LawBroken, match=f"{name}, mesh .*, device after device: error"):
        run_law("collectives.partitioner", FOUR)


@pytest.mark.parametrize(
    ("law", "fault", "alone"),
    [
        ("collectives.non_finite", "column-sums-in-bfloat16", {"fails"}),
        ("collectives.non_finite", "sums-without-the-eighth-device", set()),
        ("collectives.partitioner", "last-row-out-of-reach", {"fails"}),
        ("collectives.explicit", "slope-of-a-product", {"fails"}),
        ("collectives.explicit", "shard-offset-lost", {"holds"}),
    ],
)
def test_what_is_wrong_on_one_device_too_is_no_collectives_fault(law: str, fault: str, alone: set[str]) -> None:
    [record] = trials(faults()[fault], [(law, Settings(level="quick"))])
    assert record.status == "fail"
    assert {name for name in ("holds", "fails") if record.facts.get(name) == ["on one device"]} == alone


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_only_a_maximum_that_is_fmax_is_a_known_bug(name: str, platform: str) -> None:
    check = Check(laws()["collectives.non_finite"], "quick", 0)
    stacked = non_finite(numbers(), N, 1, np.dtype(np.float32))
    with np.errstate(invalid="ignore"):
        right, without = (reduce(stacked.astype(np.float64), axis=0).astype(np.float32) for reduce in REDUCTIONS[name])

    def passes(result: np.ndarray[Any, Any]) -> bool:
        return compare_non_finite(check, name, name, np.stack([result] * N), stacked, platform)

    assert passes(right)
    assert passes(np.where(np.isnan(right), -right, right))
    if name != "sum" and platform != "tpu":
        assert not passes(without)
    else:
        with pytest.raises(LawBroken):
            passes(without)
    for wrong in (np.nan_to_num(right), np.where(np.arange(len(right)) == 1, without, right), np.roll(without, 1)):
        with pytest.raises(LawBroken):
            passes(wrong)


def test_cpu_devices_are_known_to_drop_nan_in_maxima() -> None:
    with pytest.raises(
        Known, match=r"lose a NaN that one device has \(pmax, pmin, max of a sharded axis, min of"
    ) as known:
        run_law("collectives.non_finite", FOUR)
    assert Result.of(laws()["collectives.non_finite"], None, None, known.value, 1.0, "").status == "deviation"


def test_each_device_has_each_special_number_alone() -> None:
    data = non_finite(numbers(), N, 2, np.dtype(np.float16)).reshape(N, 2, 7, N)
    for part in (0, 1):
        nan = np.isnan(data[:, part]).sum(axis=0)
        assert nan.tolist() == [[1] * N if kind in (0, 4, 5) else [0] * N for kind in range(7)]
        assert {tuple(np.argwhere(np.isnan(data[:, part, 0])).T[0])} == {tuple(range(N))}
    assert np.isfinite(data[:, :, -1]).all()


@pytest.mark.parametrize(
    "law", ["psum", "non_finite", "ppermute", "repeated", "subgroups", "two_axes", "pmap", "partitioner", "explicit"]
)
def test_one_device_is_not_run(law: str) -> None:
    with pytest.raises(NotRun, match=r"needs [24] devices, found 1"):
        run_law(f"collectives.{law}", devices=jax.devices()[:1])
