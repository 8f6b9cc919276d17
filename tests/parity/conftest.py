"""Parity with other implementations: collected only when the file is named, so that nothing is ever skipped.

Each file needs a library that the others, and the rest of the tests, cannot have beside them. `pytest` alone and
`pytest tests/parity` therefore collect none of them; `pytest tests/parity/test_parity_flax.py` (`tox -e parity-flax`)
collects that file, and fails without its peer.
"""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore a test file of this folder unless an argument of the command line names it."""
    if collection_path.parent != FOLDER or not collection_path.name.startswith("test_"):
        return None
    named = (Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args)
    return None if collection_path.resolve() in named else True
