"""Rung 7: what the update asks of accelerators that are not here. It is lowered for each, and its module is read.

A module says what a compiler is asked for, not what the hardware does. So these laws find what a trainer asks wrongly,
on any machine; whether the answer is right the other laws find out, where the accelerator is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from ...adapter import Case, TrainerUnderTest
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.cases import start_params
from ...oracle.draws import batch_of
from ..support.stablehlo import REDUCING, Collective, Module, Tensor
from ..support.trainer_checks import all_devices, claims, draw_case, usable_devices

PLATFORMS = ("cuda", "rocm", "tpu")
# Float types narrower than float32, by their StableHLO names; those of 8 bits and less are named by their exponents.
NARROW = ("f16", "bf16", "f8E", "f6E", "f4E")
# What a product may ask for where float32 was asked for: on NVIDIA's matrix units DEFAULT is TF32, on a TPU bfloat16.
EXACT = ("HIGHEST", "DOT_F32_F32_F32")
# A gradient's elements are reduced once; beside them go the loss, the weight and other scalars.
BEYOND = 0.01


def modules(subject: TrainerUnderTest, case: Case, n: int, rng: np.random.Generator) -> dict[str, Module]:
    """Platform -> the update on n devices, lowered for it; the CPU's too."""
    batch = batch_of(case, rng)
    subject.start(case, start_params(case, rng), n)
    return {name: Module(subject.lowered(batch, name)) for name in ("cpu", *PLATFORMS)}


@pytest.mark.law("lowering.reduction")
def test_reduction(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """Who writes collectives adds every gradient up among all devices; who leaves it to the partitioner cuts rows."""
    n = all_devices(check, subject, devices)
    claims(check, subject, "lowering")
    case, params, batch = draw_case(subject, rng)
    gradient = sum(leaf.size for leaf in params.values())
    for name, module in modules(subject, case, n, rng).items():
        reductions = {found: times for found, times in module.collectives.items() if found.kind in REDUCING}
        check.facts[name] = told(module)
        if not reductions:
            whole = [
                argument.tensor
                for argument in module.arguments
                if "i" in argument.tensor.dtype
                and argument.tensor.size >= batch.input_ids.size
                and argument.pieces != n
            ]
            check.same(f"{name}: tokens that do not lie in {n} pieces, in a module without all-reduce", whole, [])
            cut = any(argument.pieces == n for argument in module.arguments)
            check.same(f"{name}: whether rows are cut for the partitioner, or gradients reduced", cut, True)
            continue
        for found in reductions:
            check.same(f"{name}: how {found.kind} joins what two devices hold", found.joins, "add")
            groups = sorted(tuple(sorted(group)) for group in found.groups)
            check.same(f"{name}: groups of devices that a sum is taken over", groups, [tuple(range(n))])
        moved = elements(reductions)
        check.at_least(f"{name}: elements reduced", sum(moved.values()), gradient, "every gradient element is added up")
        beyond = Bound(BEYOND, 2 / gradient, f"{gradient} parameters, each reduced once, and a few scalars")
        check.at_most(f"{name}: share reduced beyond that", sum(moved.values()) / gradient - 1, beyond)
        check.same(f"{name}: narrow types in which gradients are reduced", narrow(moved), [])


@pytest.mark.law("lowering.precision")
def test_precision(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """Where float32 was asked for, nothing is narrower, and each product says so; all platforms are asked the same."""
    claims(check, subject, "lowering")
    n = usable_devices(subject, devices)
    case, _, _ = draw_case(subject, rng)
    found = modules(subject, case, n, rng)
    here = found.pop("cpu")
    check.at_least("products in the update", sum(here.products.values()), 1, "a BERT is made of them")
    for name, module in found.items():
        check.same(f"{name}: types narrower than float32", narrow(module.dtypes), [])
        least = sorted({p.precision for p in module.products if p.left.dtype == "f32"} - set(EXACT))
        check.same(f"{name}: precisions below float32 that its products ask for", least, [])
        check.same(f"{name}: products that are not the CPU's", apart(module, here), [])
        check.same(f"{name}: kernels of another platform", foreign(name, module.custom_calls), [])
    if check.at("standard") and "precision:bf16" in subject.capabilities:
        half = dataclasses.replace(case, precision="bfloat16")
        for name, module in modules(subject, half, n, rng).items():
            work = {True: 0, False: 0}
            for product, times in module.products.items():
                work[product.left.dtype == product.right.dtype == "bf16"] += times * cost(product.left, product.result)
            check.at_least(
                f"{name}: share of the products' work on bfloat16 operands, where it was asked for",
                work[True] / sum(work.values()), 0.5, "a precision that arrives reaches the layers",
            )  # fmt: skip
            kept = sum(argument.tensor.size for argument in module.arguments if argument.tensor.dtype == "bf16")
            check.same(f"{name}: elements of the state that are kept in bfloat16", kept, 0)


def told(module: Module) -> str:
    """What stands in the report."""
    kinds: dict[str, int] = {}
    for found, times in module.collectives.items():
        kinds[found.kind] = kinds.get(found.kind, 0) + times
    cut = sum(argument.pieces > 1 for argument in module.arguments)
    messages = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no collective"
    return f"{messages}; {cut} of {len(module.arguments)} arguments cut; {sum(module.products.values())} products"


def elements(reductions: Mapping[Collective, int]) -> dict[str, int]:
    """Elements that are reduced, by type."""
    moved: dict[str, int] = {}
    for found, times in reductions.items():
        for tensor in found.operands:
            moved[tensor.dtype] = moved.get(tensor.dtype, 0) + times * tensor.size
    return moved


def narrow(dtypes: Iterable[str]) -> list[str]:
    """Those of some element types that are narrower than float32."""
    return sorted(name for name in dtypes if name.startswith(NARROW))


def apart(module: Module, here: Module) -> list[str]:
    """Products that one module has and the other has not."""
    odd = (module.products - here.products) + (here.products - module.products)
    return sorted(f"{p.left} x {p.right} -> {p.result} {p.precision}" for p in odd)[:3]


def foreign(platform: str, names: frozenset[str]) -> list[str]:
    """Kernels whose name says that they are another maker's."""
    others = {"cuda": ("hip", "roc"), "rocm": ("cu", "__cu"), "tpu": ("cu", "__cu", "hip", "roc", "lapack")}
    return sorted(name for name in names if name.startswith(others[platform]))


def cost(left: Tensor, result: Tensor) -> int:
    """Multiply-adds of a product, up to its contracted dimensions: enough to weigh one against another."""
    return int(np.sqrt(left.size * result.size))
