"""Scripts and notebooks of others: their definitions, an inner function, an object without its `__init__`."""

import json
import sys
from pathlib import Path

import pytest
from sftref.conformance.adapters.scripts import inner, script, without_init

pytestmark = pytest.mark.once


def main() -> int:
    """A script's main, whose step is inside it."""
    factor = 3

    def step(x: int) -> int:
        return factor * x

    return step(1)


def test_an_inner_function_is_taken_out() -> None:
    assert inner(main, "step", factor=5)(2) == 10
    with pytest.raises(ValueError, match=r"uses the variables \['factor'\], got \[\]"):
        inner(main, "step")
    with pytest.raises(ValueError, match="main defines 0 functions 'other', must define one"):
        inner(main, "other")


def test_an_object_without_its_init() -> None:
    class Trainer:
        rate = 1

        def __init__(self) -> None:
            raise OSError("no folder")

    made = without_init(Trainer, model=3)
    assert (made.model, made.rate, isinstance(made, Trainer)) == (3, 1, True)


def test_a_notebook_gives_its_definitions_and_runs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ["%matplotlib inline\nimport math\n", "def area(r: print | None):\n    return math.floor(r)\n", "1 / 0\n"]
    notebook = {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}
    notebook["cells"].insert(0, {"cell_type": "markdown", "source": ["# no code"]})
    (tmp_path / "example.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "plain.py").write_text("x = 1\nif __name__ == '__main__':\n    x = 2\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    assert script("example.ipynb").area(2.5) == 2
    assert script("plain.py").x == 1
    assert script("plain.py") is script("plain.py")
    with pytest.raises(ZeroDivisionError):
        script("wrong.py")
    with pytest.raises(FileNotFoundError, match=r"missing\.py: in none of the folders .*add it to PYTHONPATH"):
        script("missing.py")
    for name in [name for name in sys.modules if name.startswith("script:")]:
        monkeypatch.delitem(sys.modules, name)
