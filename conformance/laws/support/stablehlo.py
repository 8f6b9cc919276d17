"""The text of a lowered module (StableHLO) -> its products, its collectives, its dtypes, and where its arguments lie.

A module is what JAX hands to a platform's compiler. It can be made for a platform that is not there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

# Collectives with a region that says how two contributions become one, and those that only move.
REDUCING = ("all_reduce", "reduce_scatter")
COLLECTIVES = (*REDUCING, "all_gather", "all_to_all", "collective_permute", "collective_broadcast")
FUNCTION = re.compile(r"^  func\.func (?:public |private )?@([\w.$]+|\"[^\"]*\")", re.MULTILINE)
CALL = re.compile(r"\bcall @([\w.$]+|\"[^\"]*\")\(")
TENSOR = re.compile(r"tensor<((?:\d+x)*)([\w!.<>]+?)>")
DOT = re.compile(
    r"stablehlo\.dot_general .*?(?:precision = \[(\w+)[^\]]*\])?(?:, algorithm = (<[^>]*>))? : (\(.*?\) -> .*)"
)
COLLECTIVE = re.compile(rf'"stablehlo\.({"|".join(COLLECTIVES)})"\(.*')
CUSTOM_CALL = re.compile(r"stablehlo\.custom_call @([\w.$]+|\"[^\"]*\")")
MESH = re.compile(r"sdy\.mesh @(\w+) = <\[(.*?)\]")
AXIS = re.compile(r'"(\w+)"=(\d+)')


class Tensor(NamedTuple):
    """A type: shape and element type, as in f32 or ui32."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.shape))


class Product(NamedTuple):
    """A matrix product: its operands and result, and the precision or the algorithm that it asks for."""

    left: Tensor
    right: Tensor
    result: Tensor
    precision: str


class Collective(NamedTuple):
    """A message: its kind, its operands, what two contributions become (as in add), and who takes part, in groups."""

    kind: str
    operands: tuple[Tensor, ...]
    joins: str
    groups: tuple[tuple[int, ...], ...]


class Argument(NamedTuple):
    """A parameter of the module's entry: its type, and in how many pieces it lies on the devices (1: whole on each)."""

    tensor: Tensor
    pieces: int


@dataclass(frozen=True)
class Module:
    """What a text says. What is in a function that is called k times counts k times; a loop's body counts once."""

    text: str

    @cached_property
    def dtypes(self) -> frozenset[str]:
        """Element types that occur."""
        return frozenset(dtype for _, dtype in TENSOR.findall(self.text))

    @cached_property
    def custom_calls(self) -> frozenset[str]:
        """Names of kernels that are nobody's operation: partitioner's annotations are left out."""
        names = {name.strip('"') for name in CUSTOM_CALL.findall(self.text)}
        return frozenset(name for name in names if not name.startswith(("Sharding", "SPMD", "sdy.", "xla.sdy")))

    @cached_property
    def products(self) -> Counter[Product]:
        """Matrix products."""
        found: Counter[Product] = Counter()
        for times, body in self._functions():
            for precision, algorithm, types in DOT.findall(body):
                left, right, result = map(_tensor, TENSOR.findall(types)[:3])
                found[Product(left, right, result, algorithm or precision or "DEFAULT")] += times
        return found

    @cached_property
    def collectives(self) -> Counter[Collective]:
        """Messages."""
        found: Counter[Collective] = Counter()
        for times, body in self._functions():
            for match in COLLECTIVE.finditer(body):
                kind, line = match[1], match[0]
                end = match.end()
                joins, types = "", line
                if line.rstrip().endswith("({"):
                    region, _, rest = body[end:].partition("})")
                    inside = re.findall(r"stablehlo\.(\w+) %", region)
                    joins, types = " ".join(name for name in inside if name != "return"), rest.split("\n", 1)[0]
                types = types.rpartition(" : ")[2].partition(" -> ")[0]
                operands = tuple(map(_tensor, TENSOR.findall(types)))
                found[Collective(kind, operands, joins, self._groups(line))] += times
        return found

    @cached_property
    def arguments(self) -> list[Argument]:
        """Of the entry, in order."""
        signature = re.search(r"func\.func public @main\((.*?)\) (?:-> |\{)", self.text, re.DOTALL)
        if signature is None:
            return []
        pieces = re.split(r"%arg\d+: ", signature[1])[1:]
        return [Argument(_tensor(TENSOR.findall(one)[0]), self._pieces(one)) for one in pieces]

    def _functions(self) -> Iterator[tuple[int, str]]:
        """How often each function runs, and its text."""
        parts = FUNCTION.split(self.text)
        bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
        runs: Counter[str] = Counter()

        def run(name: str, times: int) -> None:
            runs[name] += times
            for called, count in Counter(CALL.findall(bodies[name])).items():
                run(called, times * count)

        if "main" in bodies:
            run("main", 1)
        return ((times, bodies[name]) for name, times in runs.items())

    @cached_property
    def _meshes(self) -> dict[str, dict[str, int]]:
        return {name: {axis: int(n) for axis, n in AXIS.findall(axes)} for name, axes in MESH.findall(self.text)}

    def _groups(self, line: str) -> tuple[tuple[int, ...], ...]:
        """Who talks to whom: listed, or since JAX 0.11 by the axes of a mesh."""
        by_axes = re.search(r"replica_group_mesh_axes<mesh = @(\w+), axes = \[(.*?)\]", line)
        if by_axes:
            sizes = self._meshes[by_axes[1]]
            among = re.findall(r'name = "(\w+)"', by_axes[2])
            numbers = np.arange(np.prod(list(sizes.values()))).reshape(tuple(sizes.values()))
            order = [i for i, name in enumerate(sizes) if name not in among]
            order += [list(sizes).index(name) for name in among]
            width = int(np.prod([sizes[name] for name in among]))
            return _tuples(numbers.transpose(order).reshape(-1, width))
        listed = re.search(r"(?:replica_groups|source_target_pairs) = dense<(.*?)> : tensor<(\d+)x(\d+)xi64>", line)
        if listed is None:
            return ()
        numbers = np.array([int(n) for n in re.findall(r"-?\d+", listed[1])])
        return _tuples(np.resize(numbers, (int(listed[2]), int(listed[3]))))

    def _pieces(self, attributes: str) -> int:
        """Sdy names the axes of each dimension, and before it `devices=[1,4]` counted the pieces of each."""
        named = re.search(r"sdy\.sharding<@(\w+), \[(.*?)\](?:, replicated.*?)?>", attributes)
        if named:
            sizes = self._meshes[named[1]]
            return int(np.prod([sizes[axis] for axis in re.findall(r'"(\w+)"', named[2])]))
        counted = re.search(r"devices=\[([\d,]+)\][^\"]*?(last_tile_dim_replicate)?", attributes)
        if counted is None:
            return 1
        counts = [int(n) for n in counted[1].split(",")]
        if "last_tile_dim_replicate" in attributes:
            counts = counts[:-1]
        return int(np.prod(counts))


def _tensor(found: tuple[str, str]) -> Tensor:
    return Tensor(tuple(int(n) for n in found[0].split("x") if n), found[1])


def _tuples(numbers: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in row) for row in numbers)
