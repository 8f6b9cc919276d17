"""The page on failures shows what is printed today: each seeded fault fails where it says, in these words."""

import re

import pytest
from pages import PAGE, blocks
from sftref.conformance.core.fault import faults
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trial import trials
from sftref.conformance.judge.diagnosis import advice
from sftref.conformance.judge.mutation_score import level_of

pytestmark = pytest.mark.once

RUNGS = re.findall(
    r"^## (\d+) \w+.*?<!-- read ([\w-]+) -->", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def masked(text: str) -> str:
    """A text without its numbers, which differ from machine to machine."""
    return re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "#", " ".join(text.split()))


def test_every_rung_has_its_example() -> None:
    assert [int(number) for number, _ in RUNGS] == sorted({law.rung for law in laws().values()})
    for number, fault in RUNGS:
        assert laws()[faults()[fault].seen_by[0]].rung == int(number), fault


@pytest.mark.parametrize(("fault", "block"), blocks().items(), ids=blocks())
def test_a_block_is_what_is_printed(fault: str, block: str) -> None:
    """The first failure of the block: its law, run again, has the same message; and the words of the verdict."""
    lines = block.splitlines()
    place = next(at for at, line in enumerate(lines) if " failed: " in line)
    law = lines[place].split()[0].partition("[")[0]
    entry = faults()[fault]
    [record] = trials(entry, [(law, Settings(level=level_of("quick", entry, law)))], narrows=lambda _: True)
    assert record.status == "fail"
    shown = masked(lines[place + 1].removesuffix(" ..."))
    assert masked(record.message).startswith(shown[:60]), shown
    assert advice(record)[0].split(",")[0][:60] in block
    assert lines[-1].startswith("NONCONFORMANT: ")
    assert f"diagnosis: {entry.layer}: " in block
