"""The table of `shard_map.md`: each piece of code gives what the page says, on four devices."""

import re
from typing import Any

import jax
import pytest
from pages import DOCS

PAGE = (DOCS / "shard_map.md").read_text(encoding="utf-8")
SETUP = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
CODE = re.compile(r"`([^`]+)`,?(?: which)? (gives|raises) `([^`]+)`")

pytestmark = pytest.mark.jax


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's own lines define."""
    if not hasattr(jax, "shard_map"):
        pytest.skip("JAX before 0.6.1")
    found: dict[str, Any] = {}
    assert SETUP is not None
    exec(SETUP[1], found)
    return found


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_a_row_of_the_table(row: str, names: dict[str, Any]) -> None:
    _, *cells = row.strip("| ").split(" | ")
    for cell in cells:
        pieces = CODE.findall(cell)
        assert len(pieces) == len(re.findall(" (?:gives|raises) ", cell)) > 0
        for code, what, result in pieces:
            if what == "gives":
                assert repr(eval(code, names)) == result, code
            else:
                with pytest.raises(eval(result)):
                    eval(code, names)
