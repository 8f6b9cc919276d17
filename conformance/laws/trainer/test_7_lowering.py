"""Rung 7: what the update, lowered for accelerators that need not be present, requests of their compilers.

A lowered module shows, on any machine, what a trainer requests. The other laws check, on a machine with the
accelerator, whether it computes this correctly.
"""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from ...adapter import Case, TrainerUnderTest
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.cases import start_params
from ...oracle.draws import batch_of, draw_case
from ..support.running import law
from ..support.stablehlo import REDUCING, Module

PLATFORMS = ("cuda", "rocm", "tpu")
# Prefixes of the StableHLO names of float types narrower than float32.
NARROW = ("f16", "bf16", "f8E", "f6E", "f4E")
# Precisions of a product that mean float32; DEFAULT is TF32 on NVIDIA's matrix units and bfloat16 on a TPU.
EXACT = ("HIGHEST", "DOT_F32_F32_F32")
# Largest share of elements reduced beyond the gradient: the loss, the weight and other scalars.
BEYOND = 0.01


def modules(subject: TrainerUnderTest, case: Case, n: int, rng: np.random.Generator) -> dict[str, Module]:
    """Platform ("cpu" or one of `PLATFORMS`) -> the update on n devices, lowered for that platform."""
    batch = batch_of(case, rng)
    subject.start(case, start_params(case, rng), n)
    return {name: Module(subject.lowered(batch, name)) for name in ("cpu", *PLATFORMS)}


@law("lowering.reduction", claims=("devices", "lowering"))
def test_reduction(check: Check, subject: TrainerUnderTest, n: int, rng: np.random.Generator) -> None:
    """Compares sums over devices in each module with the gradient's size; without any, checks how rows are sharded."""
    case, params, batch = draw_case(subject, rng)
    gradient = sum(leaf.size for leaf in params.values())
    for name, module in modules(subject, case, n, rng).items():
        reductions = {one: times for one, times in module.collectives.items() if one.kind in REDUCING}
        check.facts[name] = _summary(module)  # type: ignore[literal-required]
        if not reductions:
            least = batch.input_ids.size
            unsharded = [arg.tensor for arg in module.arguments if arg.pieces != n and "i" in arg.tensor.dtype]
            whole = [tensor for tensor in unsharded if tensor.size >= least]
            check.same(f"{name}: tokens that do not lie in {n} pieces, in a module without all-reduce", whole, [])
            cut = any(argument.pieces == n for argument in module.arguments)
            check.same(f"{name}: whether rows are cut for the partitioner, or gradients reduced", cut, True)
            continue
        for reduction in reductions:
            check.same(f"{name}: how {reduction.kind} joins what two devices hold", reduction.joins, "add")
            groups = sorted(tuple(sorted(group)) for group in reduction.groups)
            check.same(f"{name}: groups of devices that a sum is taken over", groups, [tuple(range(n))])
        moved: collections.Counter[str] = collections.Counter()
        for reduction, times in reductions.items():
            for tensor in reduction.operands:
                moved[tensor.dtype] += times * tensor.size
        check.at_least(f"{name}: elements reduced", sum(moved.values()), gradient, "every gradient element is added up")
        beyond = Bound(BEYOND, 2 / gradient, f"{gradient} parameters, each reduced once, and a few scalars")
        check.at_most(f"{name}: share reduced beyond that", sum(moved.values()) / gradient - 1, beyond)
        check.same(f"{name}: narrow types in which gradients are reduced", narrow(moved), [])


@law("lowering.precision", claims=("lowering",))
def test_precision(check: Check, subject: TrainerUnderTest, n: int, rng: np.random.Generator) -> None:
    """Checks that each module uses float32, the products of the CPU's module, and no kernel of another platform."""
    case, _, _ = draw_case(subject, rng)
    by_platform = modules(subject, case, n, rng)
    here = by_platform["cpu"]
    check.at_least("products in the update", sum(here.products.values()), 1, "BERT consists of products")
    for name in PLATFORMS:
        module = by_platform[name]
        check.same(f"{name}: types narrower than float32{_where(name, by_platform)}", narrow(module.dtypes), [])
        least = sorted({p.precision for p in module.products if p.left.dtype == "f32"} - set(EXACT))
        check.same(f"{name}: precisions below float32 that its products ask for", least, [])
        odd = (module.products - here.products) + (here.products - module.products)
        texts = sorted(f"{p.left} x {p.right} -> {p.result} {p.precision}" for p in odd)
        check.same(f"{name}: products that are not the CPU's", texts[:3], [])
        check.same(f"{name}: kernels of another platform", foreign(name, module.custom_calls), [])
    if check.at("standard") and "precision:bf16" in subject.capabilities:
        half = dataclasses.replace(case, precision="bfloat16")
        for name, module in modules(subject, half, n, rng).items():
            work = {True: 0, False: 0}
            for product, times in module.products.items():
                # A rough measure of the product's work, from the sizes of an operand and of the result.
                cost = int(np.sqrt(product.left.size * product.result.size))
                work[product.left.dtype == product.right.dtype == "bf16"] += times * cost
            what = f"{name}: share of the products' work on bfloat16 operands, where it was asked for"
            share = work[True] / sum(work.values())
            check.at_least(what, share, 0.5, "a requested precision must reach the layers")
            kept = sum(argument.tensor.size for argument in module.arguments if argument.tensor.dtype == "bf16")
            check.same(f"{name}: elements of the state that are kept in bfloat16", kept, 0)


def _summary(module: Module) -> str:
    kinds: collections.Counter[str] = collections.Counter()
    for collective, times in module.collectives.items():
        kinds[collective.kind] += times
    sharded = sum(argument.pieces > 1 for argument in module.arguments)
    messages = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no collective"
    arguments = f"{sharded} of {len(module.arguments)} arguments sharded"
    return f"{messages}; {arguments}; {sum(module.products.values())} products"


def _where(name: str, modules: dict[str, Module]) -> str:
    """If a platform's module has narrow types: which other modules have none, and which operation has one first."""
    found = narrow(modules[name].dtypes)
    if not found:
        return ""
    others = ", ".join(other for other, module in modules.items() if not narrow(module.dtypes))
    return f"{f', which the programs for {others} have not' if others else ''}, first in {modules[name].first(found)}"


def narrow(dtypes: Iterable[str]) -> list[str]:
    """The element types that are narrower than float32."""
    return sorted(name for name in dtypes if name.startswith(NARROW))


def foreign(platform: str, names: frozenset[str]) -> list[str]:
    """The kernels whose name starts with a prefix of another platform's libraries."""
    others = {"cuda": ("hip", "roc"), "rocm": ("cu", "__cu"), "tpu": ("cu", "__cu", "hip", "roc", "lapack")}
    return sorted(name for name in names if name.startswith(others[platform]))
