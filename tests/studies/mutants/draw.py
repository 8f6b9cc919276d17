"""Sources of right trainers, lines that the laws execute, a seed -> mutants, each with one change by cosmic-ray."""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Adapters of the kit; the paths are in the package, as it is installed.
TEMPLATE, MESH, PMAP = "template:Template", "sftref:mesh", "sftref:pmap"
# The folders and files to mutate.
SOURCES = ("conformance/adapters/template.py", "data", "model", "train", "trainers")
# The adapters that judge the mutants of a file, the first one alone at `quick`; `SHARED` judge all other files.
SHARED = (MESH, PMAP)
JUDGES = {
    "conformance/adapters/template.py": (TEMPLATE,),
    "model/sharding.py": ("sftref:sharded", MESH),
    "trainers/mesh.py": (MESH, "sftref:sharded"),
    "trainers/pmap.py": (PMAP,),
    "trainers/single.py": ("sftref:single",),
}
ADAPTERS = tuple(dict.fromkeys(adapter for own in (SHARED, *JUDGES.values()) for adapter in own))


@dataclass(frozen=True)
class Mutant:
    """A changed source.

    Attributes:
        file: the path of the source in the package.
        operator: the name of cosmic-ray's operator.
        line: the number of the first changed line.
        before: the changed lines as they were, without their indentation.
        after: those lines with the change.
        text: the whole changed source.
    """

    file: str
    operator: str
    line: int
    before: str
    after: str
    text: str = field(repr=False, compare=False)

    @property
    def judges(self) -> tuple[str, ...]:
        """The adapters that judge it."""
        return JUDGES.get(self.file, SHARED)

    @property
    def family(self) -> str:
        """The operator without what it replaces by what."""
        return self.operator.partition("_")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.operator}\n- {self.before}\n+ {self.after}"


@dataclass(frozen=True)
class Change:
    """One change by an operator, its `occurrence`-th in the source and `variant`-th at `place` (line, column)."""

    operator: Any
    occurrence: int
    place: tuple[int, int]
    variant: int

    def number(self, seed: int, name: str, source: str) -> float:
        """A random number that stays the same if other lines of the source change, so that the draw does too."""
        line = source.splitlines()[self.place[0] - 1]
        return random.Random(f"{seed} {name} {line} {self.place[1]} {self.operator.__name__} {self.variant}").random()


def files(package: Path) -> list[str]:
    """The sources to mutate, as paths in the package."""
    found = [path for name in SOURCES for path in sorted([package / name, *(package / name).glob("*.py")])]
    return [path.relative_to(package).as_posix() for path in found if path.is_file()]


def mutants(package: Path, executed: Mapping[str, Mapping[str, Iterable[int]]], count: int, seed: int) -> list[Mutant]:
    """Mutants drawn by a seed; each file has a share in proportion to its number of places.

    A place is drawn a second time only when all places of its file have been drawn.

    Args:
        package: the folder of the package `sftref`, with the kit in it.
        executed: adapter -> file -> the lines that the laws of trainers execute.
        count: how many to draw.
        seed: selects them.
    """
    sources = {name: (package / name).read_text(encoding="utf-8") for name in files(package)}
    lines = {
        name: {line for adapter in JUDGES.get(name, SHARED) for line in executed[adapter].get(name, ())}
        for name in sources
    }
    used = used_names(sources, lines)
    changes = {name: list(_changes(text, reachable(text, lines[name], used))) for name, text in sources.items()}
    places = {name: len({change.place for change in own}) for name, own in changes.items()}
    drawn = []
    for name, share in shares(places, count).items():
        seen: Counter[Any] = Counter()
        rank = {}
        for change in sorted(changes[name], key=lambda change: change.number(seed, name, sources[name])):
            rank[change] = seen[change.place]
            seen[change.place] += 1
        made = (_mutant(name, sources[name], change) for change in sorted(rank, key=rank.__getitem__))
        texts: dict[str, Mutant] = {}
        for mutant in filter(None, made):
            if len(texts) == share:
                break
            texts.setdefault(mutant.text, mutant)
        drawn += texts.values()
    return drawn


def every(name: str, source: str, lines: Iterable[str]) -> Iterator[Mutant]:
    """All mutants of a source whose first changed line, without its indentation, is one of `lines`."""
    wanted = {number for number, line in enumerate(source.splitlines(), 1) if line.strip() in set(lines)}
    yield from filter(None, (_mutant(name, source, change) for change in _changes(source, wanted)))


def shares(places: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` divided in proportion to `places`, by the largest remainders."""
    total = max(sum(places.values()), 1)
    exact = {name: count * own / total for name, own in places.items()}
    whole = {name: int(share) for name, share in exact.items()}
    most = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in most[: count - sum(whole.values())]:
        whole[name] += 1
    return whole


def used_names(sources: Mapping[str, str], executed: Mapping[str, set[int]]) -> set[str]:
    """All words in executed lines of functions."""
    words: set[str] = set()
    for name, text in sources.items():
        lines = text.splitlines()
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef) and function.end_lineno:
                for number in executed[name] & set(range(function.body[0].lineno, function.end_lineno + 1)):
                    words |= set(re.findall(r"\w+", lines[number - 1]))
    return words


def reachable(source: str, executed: set[int], used: set[str]) -> set[int]:
    """The lines of a source that the laws can reach.

    These are executed statements of functions, the heads of functions with an executed statement, and constants of
    modules and classes whose name is in `used`, because an import executes these whether they are used or not.
    """
    lines: set[int] = set()

    def visit(body: Sequence[ast.AST], inside: bool) -> None:
        for node in body:
            if not isinstance(node, ast.stmt | ast.ExceptHandler):
                continue
            inner = [child for _, value in ast.iter_fields(node) if isinstance(value, list) for child in value]
            inner = [child for child in inner if isinstance(child, ast.stmt | ast.ExceptHandler)]
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            end = node.end_lineno or node.lineno
            head = set(range(first, min((child.lineno for child in inner), default=end + 1)))
            function = isinstance(node, ast.FunctionDef)
            if function:
                reached = bool(set(range(inner[0].lineno, end + 1)) & executed)
            elif inside:
                reached = bool(head & executed)
            else:
                names = [n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
                reached = not inner and any(n.id in used for n in names)
            lines.update(head if reached else ())
            visit(inner, inside or function)

    visit(ast.parse(source).body, False)
    return lines


def _changes(source: str, lines: set[int]) -> Iterator[Change]:
    """All changes of some lines; types and the texts of errors are left out, because no law reads them."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    # `ExceptionReplacer` raises on an exception that is an attribute of a module.
    names = [name for name in provider if name != "ExceptionReplacer"]
    operators = [operator for operator in map(provider.__getitem__, names) if not operator.arguments()]
    left_out = list(_unread(ast.parse(source)))
    seen: Counter[Any] = Counter()
    for node in ast_nodes(get_ast(source)):
        for operator in operators:
            for variant, (start, _) in enumerate(operator().mutation_positions(node)):
                if start[0] in lines and not any(first <= start < last for first, last in left_out):
                    yield Change(operator, seen[operator], start, variant)
                seen[operator] += 1


def _unread(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(tree):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"):
            parts += [inner for inner in ast.walk(node) if isinstance(inner, ast.JoinedStr)]
        for part in filter(None, parts):
            yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)


def _mutant(name: str, source: str, change: Change) -> Mutant | None:
    """The source after a change; None if Python cannot parse it, or parses it as the source."""
    from cosmic_ray.mutating import MutationVisitor

    text = MutationVisitor.mutate_code(source, change.operator(), change.occurrence)
    try:
        if text is None or ast.dump(ast.parse(text)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    old, new = source.splitlines(), text.splitlines()
    first = next(k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    last = next(k for k, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b)
    before, after = ("\n".join(lines[first : len(lines) - last]).strip() for lines in (old, new))
    return Mutant(name, change.operator.__name__, first + 1, before, after, text)
