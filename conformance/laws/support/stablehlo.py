"""The text of a lowered module (StableHLO) -> its products, its collectives, its dtypes, its arguments' shardings.

JAX passes such a module to the platform's compiler, and can make one for a platform that is not present.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

# Collectives with a region that joins two contributions, and those that only move data.
REDUCING = ("all_reduce", "reduce_scatter")
COLLECTIVES = (*REDUCING, "all_gather", "all_to_all", "collective_permute", "collective_broadcast")
FUNCTION = re.compile(r"^  func\.func (?:public |private )?@([\w.$]+|\"[^\"]*\")", re.MULTILINE)
CALL = re.compile(r"\bcall @([\w.$]+|\"[^\"]*\")\(")
TENSOR = re.compile(r"tensor<((?:\d+x)*)([\w!.<>]+?)>")
DOT = re.compile(
    r"stablehlo\.dot_general .*?(?:precision = \[(\w+)[^\]]*\])?(?:, algorithm = (<[^>]*>))? : (\(.*?\) -> .*)"
)
COLLECTIVE = re.compile(rf'"stablehlo\.({"|".join(COLLECTIVES)})"\(.*')
OPERATION = re.compile(r"= \"?stablehlo\.(\w+)")
CUSTOM_CALL = re.compile(r"stablehlo\.custom_call @([\w.$]+|\"[^\"]*\")")
INTEGER = re.compile(r"(%\w+) = stablehlo\.constant dense<(\d+)> : tensor<u?i\d+>")
LESS = re.compile(r"stablehlo\.compare +LT, (%\w+), (%\w+),")
MESH = re.compile(r"sdy\.mesh @(\w+) = <\[(.*?)\]")
AXIS = re.compile(r'"(\w+)"=(\d+)')


class Tensor(NamedTuple):
    """A type: shape, and an element type such as f32 or ui32."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


class Product(NamedTuple):
    """A matrix product: its operands and result, and the precision or the algorithm that it requests."""

    left: Tensor
    right: Tensor
    result: Tensor
    precision: str


class Collective(NamedTuple):
    """A collective: its kind, its operands, the operations that join two contributions, and its groups of devices."""

    kind: str
    operands: tuple[Tensor, ...]
    joins: str
    groups: tuple[tuple[int, ...], ...]


class Argument(NamedTuple):
    """A parameter of `main`: its type, and the number of pieces it is sharded into (1: whole on each device)."""

    tensor: Tensor
    pieces: int


@dataclass(frozen=True)
class Module:
    """A parsed module. What is in a function or loop counts as often as it runs; in a loop of unknown length, once."""

    text: str

    @cached_property
    def dtypes(self) -> frozenset[str]:
        """Element types in the module."""
        return frozenset(dtype for _, dtype in TENSOR.findall(self.text))

    def first(self, dtypes: Collection[str]) -> str:
        """The first operation with one of these element types, and the shapes of its tensors of these types."""
        for line in self.text.splitlines():
            operation = OPERATION.search(line)
            shapes = [shape.removesuffix("x") or "a scalar" for shape, dtype in TENSOR.findall(line) if dtype in dtypes]
            if operation and shapes:
                return f"{operation[1]} of {' and '.join(dict.fromkeys(shapes))}"
        return "a signature"

    @cached_property
    def custom_calls(self) -> frozenset[str]:
        """Names of the kernels that the module calls, without the partitioner's annotations."""
        names = {name.strip('"') for name in CUSTOM_CALL.findall(self.text)}
        return frozenset(name for name in names if not name.startswith(("Sharding", "SPMD", "sdy.", "xla.sdy")))

    @cached_property
    def products(self) -> Counter[Product]:
        """Matrix product -> how often it runs."""
        products: Counter[Product] = Counter()
        for times, body in self._functions():
            for precision, algorithm, types in DOT.findall(body):
                left, right, result = _tensors(types)[:3]
                products[Product(left, right, result, algorithm or precision or "DEFAULT")] += times
        return products

    @cached_property
    def collectives(self) -> Counter[Collective]:
        """Collective -> how often it runs."""
        collectives: Counter[Collective] = Counter()
        for times, body in self._functions():
            for match in COLLECTIVE.finditer(body):
                line, joins = match[0], ""
                types = line
                if line.rstrip().endswith("({"):
                    region, _, rest = body[match.end() :].partition("})")
                    inside = re.findall(r"stablehlo\.(\w+) %", region)
                    joins, types = " ".join(name for name in inside if name != "return"), rest.split("\n", 1)[0]
                operands = tuple(_tensors(types.rpartition(" : ")[2].partition(" -> ")[0]))
                collectives[Collective(match[1], operands, joins, self._groups(line))] += times
        return collectives

    @cached_property
    def arguments(self) -> list[Argument]:
        """The parameters of `main`, in order."""
        signature = re.search(r"func\.func public @main\((.*?)\) (?:-> |\{)", self.text, re.DOTALL)
        parameters = re.split(r"%arg\d+: ", signature[1])[1:] if signature else []
        return [Argument(_tensors(one)[0], self._pieces(one)) for one in parameters]

    def _functions(self) -> Iterator[tuple[int, str]]:
        """For each function, and each loop in one: (how often it runs, its text without the loops in it)."""
        parts = FUNCTION.split(self.text)
        bodies = {name: list(_loops(text.splitlines())) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
        runs: Counter[tuple[str, int]] = Counter()

        def run(name: str, times: int) -> None:
            for i, (trips, text) in enumerate(bodies[name]):
                runs[name, i] += times * trips
                for called, count in Counter(CALL.findall(text)).items():
                    run(called, times * trips * count)

        if "main" in bodies:
            run("main", 1)
        return ((times, bodies[name][i][1]) for (name, i), times in runs.items())

    @cached_property
    def _meshes(self) -> dict[str, dict[str, int]]:
        return {name: {axis: int(n) for axis, n in AXIS.findall(axes)} for name, axes in MESH.findall(self.text)}

    def _groups(self, line: str) -> tuple[tuple[int, ...], ...]:
        """The groups of devices of a collective: listed, or (since JAX 0.11) given by axes of a mesh."""
        by_axes = re.search(r"replica_group_mesh_axes<mesh = @(\w+), axes = \[(.*?)\]", line)
        if by_axes:
            sizes = self._meshes[by_axes[1]]
            among = re.findall(r'name = "(\w+)"', by_axes[2])
            numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
            order = [name for name in sizes if name not in among] + among
            width = math.prod(sizes[name] for name in among)
            numbers = numbers.transpose([list(sizes).index(name) for name in order]).reshape(-1, width)
            return tuple(map(tuple, numbers.tolist()))
        listed = re.search(r"(?:replica_groups|source_target_pairs) = dense<(.*?)> : tensor<(\d+)x(\d+)xi64>", line)
        if listed is None:
            return ()
        numbers = np.array([int(n) for n in re.findall(r"-?\d+", listed[1])])
        return tuple(map(tuple, np.resize(numbers, (int(listed[2]), int(listed[3]))).tolist()))

    def _pieces(self, attributes: str) -> int:
        """Number of pieces of an argument, from Shardy's axes or the older `devices=[1,4]` (pieces by dimension)."""
        named = re.search(r"sdy\.sharding<@(\w+), \[(.*?)\](?:, replicated.*?)?>", attributes)
        if named:
            sizes = self._meshes[named[1]]
            return math.prod(sizes[axis] for axis in re.findall(r'"(\w+)"', named[2]))
        counted = re.search(r"devices=\[([\d,]+)\]", attributes)
        counts = [int(n) for n in counted[1].split(",")] if counted else []
        return math.prod(counts[:-1] if "last_tile_dim_replicate" in attributes else counts)


def _tensors(text: str) -> list[Tensor]:
    return [Tensor(tuple(int(n) for n in shape.split("x") if n), dtype) for shape, dtype in TENSOR.findall(text)]


def _loops(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Lines of a region -> (how often it runs, text) of what is outside its loops, and of each loop's body."""
    outside: list[str] = []
    at = 0
    while at < len(lines):
        outside.append(lines[at])
        at += 1
        if "stablehlo.while(" not in lines[at - 1]:
            continue
        # The regions of a loop end where a line is as far to the right as the one that begins it.
        indent = " " * (len(lines[at - 1]) - len(lines[at - 1].lstrip()))
        middle = next((i for i in range(at, len(lines)) if lines[i].startswith(f"{indent}}} do {{")), len(lines))
        end = next((i for i in range(middle + 1, len(lines)) if lines[i].startswith(f"{indent}}}")), len(lines))
        trips = _trips(lines[at - 1], lines[at:middle], outside)
        yield from ((trips * times, text) for times, text in _loops(lines[middle + 1 : end]))
        at = end
    yield 1, "\n".join(outside)


def _trips(loop: str, condition: Sequence[str], before: Sequence[str]) -> int:
    """How often a loop runs whose number is compared with a constant, as that of `lax.scan`; 1 for any other loop."""
    known = {name: int(value) for line in (*before, *condition) for name, value in INTEGER.findall(line)}
    less = next((match for line in condition if (match := LESS.search(line))), None)
    start = less and re.search(rf"{re.escape(less[1])} = (%[\w#]+)", loop)
    return known[less[2]] - known[start[1]] if less and start and {less[2], start[1]} <= known.keys() else 1
