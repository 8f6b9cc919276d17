"""Mutants and their results -> a summary, tables by file and operator, and the survivors with their changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .draw import Mutant
from .proofs import Proof, why

# The least share of mutants, of those that can be imported and are not equivalent, that `standard` must kill.
LEAST = 0.95


@dataclass(frozen=True)
class Outcome:
    """The result of a study.

    Attributes:
        drawn: the mutants.
        results: (mutant as text, level) -> its result.
        proofs: the proofs of equivalence.
        levels: the levels that ran, from the lowest.
    """

    drawn: Sequence[Mutant]
    results: Mapping[tuple[str, str], Mapping[str, Any]]
    proofs: Sequence[Proof]
    levels: Sequence[str]

    def killer(self, mutant: Mutant) -> Mapping[str, Any] | None:
        """The result at the level that killed a mutant; None if it survives."""
        own = [self.results[str(mutant), level] for level in self.levels if (str(mutant), level) in self.results]
        return next((result for result in own if result["status"] != "pass"), None)

    def kind(self, mutant: Mutant) -> str:
        """`not imported`, the level that killed it, `equivalent` or `survives`."""
        result = self.killer(mutant)
        if result is not None:
            return "not imported" if result["status"] == "import" else str(result["level"])
        return "survives" if why(mutant, self.proofs) is None else "equivalent"

    def of(self, kind: str, drawn: Sequence[Mutant] | None = None) -> list[Mutant]:
        """The mutants of a kind."""
        return [mutant for mutant in (self.drawn if drawn is None else drawn) if self.kind(mutant) == kind]

    def share(self, levels: Sequence[str]) -> float:
        """The share of the mutants, without those that are equivalent or cannot be imported, killed at `levels`."""
        judged = [m for m in self.drawn if self.kind(m) not in ("not imported", "equivalent")]
        return sum(self.kind(mutant) in levels for mutant in judged) / max(len(judged), 1)

    def enough(self) -> bool:
        """Whether `quick` and `standard` kill the least share."""
        return self.share(("quick", "standard")) >= LEAST

    def wrong_proofs(self) -> list[str]:
        """The mutants that have a proof of equivalence, and were killed."""
        killed = [m for m in self.drawn if why(m, self.proofs) is not None and self.killer(m)]
        return [f"the proof is wrong, {self.killer(m)['law']} kills it: {m}" for m in killed]  # type: ignore[index]

    def summary(self) -> str:
        """The counts in a few sentences."""
        counts = {kind: len(self.of(kind)) for kind in (*self.levels, "survives", "equivalent", "not imported")}
        ways = {
            "a wrong result": ("fail",), "an exception": ("error",), "no end or a crash": ("hang", "crash"),
        }  # fmt: skip
        killed = [result for mutant in self.drawn if (result := self.killer(mutant)) and result["status"] != "import"]
        by_way = {way: sum(result["status"] in statuses for result in killed) for way, statuses in ways.items()}
        levels = ", ".join(f"{counts[level]} at `{level}`" for level in self.levels)
        shares = [self.share(self.levels[: n + 1]) for n in range(len(self.levels))]
        return (
            f"{len(self.drawn)} mutants: {levels}; {counts['survives']} survive, {counts['equivalent']} are "
            f"equivalent, {counts['not imported']} cannot be imported.\n"
            f"Killed by {', '.join(f'{way}: {count}' for way, count in by_way.items())}.\n"
            f"Killed of those that can be imported and are not equivalent: "
            f"{', '.join(f'{share:.1%} up to `{level}`' for share, level in zip(shares, self.levels, strict=True))}."
        )

    def figures(self) -> dict[str, Any]:
        """The figures of the kit's README: `summary.json`."""
        shares = {level: round(self.share(self.levels[: n + 1]), 4) for n, level in enumerate(self.levels)}
        kinds = {kind: len(self.of(kind)) for kind in (*self.levels, "survives", "equivalent", "not imported")}
        return {"mutants": len(self.drawn), "kinds": kinds, "shares": shares}

    def markdown(self) -> str:
        """The page."""
        parts = ["# Mutants of right trainers", self.summary()]
        parts += ["## By file", self._table("file", lambda mutant: mutant.file)]
        parts += ["## By operator", self._table("operator", lambda mutant: mutant.family)]
        laws: dict[str, int] = {}
        for mutant in self.drawn:
            if (result := self.killer(mutant)) is not None:
                laws[result["law"]] = laws.get(result["law"], 0) + 1
        parts += ["## First law that failed", "Laws run in the order of their kills per second so far."]
        parts.append("\n".join(f"- `{law}`: {count}" for law, count in sorted(laws.items(), key=lambda i: -i[1])))
        for title, kind in (("Survivors", "survives"), ("Killed at `full` only", "full"), ("Equivalent", "equivalent")):
            parts += [f"## {title}", *(self._change(mutant) for mutant in self.of(kind))]
        return "\n\n".join(parts) + "\n"

    def _table(self, head: str, key: Callable[[Mutant], str]) -> str:
        kinds = (*self.levels, "survives", "equivalent", "not imported")
        rows = [(head, "drawn", *kinds), ("---",) * (len(kinds) + 2)]
        for name in sorted({key(mutant) for mutant in self.drawn}):
            own = [mutant for mutant in self.drawn if key(mutant) == name]
            rows.append((name, str(len(own)), *(str(len(self.of(kind, own))) for kind in kinds)))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _change(self, mutant: Mutant) -> str:
        text = f"`{mutant.file}:{mutant.line}` {mutant.operator}\n\n```diff"
        text += "".join(f"\n- {line}" for line in mutant.before.splitlines())
        text += "".join(f"\n+ {line}" for line in mutant.after.splitlines()) + "\n```"
        proof, result = why(mutant, self.proofs), self.killer(mutant)
        return text + (f"\n\n{proof}" if proof else "") + (f"\n\n`{result['law']}`" if result else "")
