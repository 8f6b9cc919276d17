"""`sftref explain`: all laws and each of them, and the nearest ids of one that does not exist."""

import difflib

import pytest
from sftref.conformance.core.law import laws

from sftref import cli


def test_explain_lists_all_laws_and_explains_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {law.id} " in listed and law.requirement in listed for law in laws().values())
    for law in list(laws().values())[:3]:
        assert cli.main(["explain", law.id]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for message in (law.id, law.requirement, law.cause, law.next_step, *law.catches):
            assert " ".join(message.split()) in text
    assert cli.main(["explain", "1"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == {
        law.id for law in laws().values() if law.rung == 1
    }


def test_explain_names_the_nearest_ids(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "copies.round_tripp"]) == 2
    message = "sftref: explain copies.round_tripp: no such law, nor a rung from 0 to 10 with laws; similar: "
    similar = ", ".join(difflib.get_close_matches("copies.round_tripp", laws(), 3, 0.4))
    assert capsys.readouterr().err == f"{message}{similar}\n"
