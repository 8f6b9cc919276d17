"""The ladder and its laws, as their TOML files state them: no unknown field, no impossible value."""

from typing import Any

import pytest
from sftref.conformance.core.law import LADDER, LEVELS, Law, Rung, entry_of, ladder_of, laws
from sftref.conformance.machine.startup_phases import PHASES

ENTRY: dict[str, Any] = {
    "id": "a.law", "rung": 3, "requirement": "It MUST.", "catches": ["this"], "cause": "That.", "next_step": "Do.",
}  # fmt: skip


def test_a_rung_needs_rungs_below_it_and_what_they_need() -> None:
    for number, rung in enumerate(LADDER):
        assert all(below < number for below in rung.needs)
        assert all(set(LADDER[below].needs) <= set(rung.needs) for below in rung.needs), rung.name


def test_each_rung_has_laws() -> None:
    assert {law.rung for law in laws().values()} == set(range(len(LADDER)))


def test_phases_are_those_of_a_start_and_of_one_rung_each() -> None:
    phases = [phase for rung in LADDER for phase in rung.phases]
    assert len(phases) == len(set(phases))
    assert set(phases) == {"first compile", "first run", "first collective"} <= set(PHASES)


def test_one_law_says_whether_the_platform_is_there() -> None:
    assert [law.id for law in laws().values() if law.setup] == ["environment.platform"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rungs": 3}, "laws/x.toml: unknown field rungs; the fields are "),
        ({"rung": 11}, "law a.law: rung = 11, must be 0 to 10"),
        ({"per": "device"}, "law a.law: per = 'device', must be one of machine, subject"),
        ({"level": "slow"}, "law a.law: level = 'slow', must be one of quick, standard, full"),
        ({"unoptimized_up_to": "never"}, "law a.law: unoptimized_up_to = 'never', must be one of quick, "),
    ],
)
def test_an_unknown_field_or_value_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entry_of(Law, "laws/x.toml", ENTRY | change)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"laws/rungs.toml: .*'needs'"):
        entry_of(Rung, "laws/rungs.toml", {"name": "copies"})


@pytest.mark.parametrize("needs", [[0], [1], [-1]])
def test_a_rung_that_needs_one_not_below_it_is_refused(needs: list[int]) -> None:
    with pytest.raises(ValueError, match=r"laws/rungs.toml: copies needs \[-?[01]\], must be numbers below 0"):
        ladder_of([Rung(name="copies", needs=tuple(needs))])


@pytest.mark.parametrize("level", LEVELS)
def test_only_laws_of_trainers_are_compiled_without_optimizations(level: str) -> None:
    light = {law.id for law in laws().values() if law.unoptimized_at(level)}
    trainers = {law.id for law in laws().values() if law.per == "subject"}
    some = {"equivalence.device_counts", "equivalence.packing", "equivalence.accumulation"}
    some |= {"training.schedule", "training.settings", "training.resume_elsewhere"}
    some |= {f"processes.{name}" for name in ("training", "agreement", "layouts", "data", "resume")}
    assert light == {"quick": trainers, "standard": some, "full": set()}[level]
