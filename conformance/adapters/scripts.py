"""A script or notebook that is in no package -> its functions, also those inside `main`, without running it."""

import __future__

import ast
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

# The statements of a notebook that only define; others may load data or train.
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def script(name: str) -> ModuleType:
    """The module of a file in the current folder or on Python's path; it is executed once.

    A `.py` file is imported, so its `__main__` part does not run. Of an `.ipynb` file, only imports, functions and
    classes are executed.

    Raises:
        FileNotFoundError: no such folder has the file.
    """
    module_name = f"script:{name}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    folders = [os.getcwd(), *sys.path]
    path = next((Path(folder) / name for folder in folders if (Path(folder) / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{name}: in none of the folders {folders}; run in its folder, or add it to PYTHONPATH")
    spec = importlib.util.spec_from_file_location(module_name, path) if path.suffix == ".py" else None
    module = importlib.util.module_from_spec(spec) if spec else ModuleType(module_name)
    sys.modules[module_name] = module
    try:
        if spec and spec.loader:
            spec.loader.exec_module(module)
        else:
            # Annotations are not evaluated, as in Python 3.14: Equinox's notebook has some that older ones refuse.
            code = compile(
                _definitions(path), f"{path} (code cells)", "exec", flags=__future__.annotations.compiler_flag
            )
            exec(code, vars(module))
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _definitions(path: Path) -> ast.Module:
    """The definitions of a notebook's code cells; lines of IPython's own syntax are left out."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    lines = "".join("".join(cell["source"]) + "\n" for cell in cells).splitlines()
    tree = ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in lines))
    return ast.Module([node for node in tree.body if isinstance(node, DEFINITIONS)], [])


def inner(outer: Callable[..., Any], name: str, **variables: Any) -> Any:
    """The function that `outer` defines inside itself, without calling `outer`; decorators are left out.

    Args:
        outer: a function, such as a script's `main`.
        name: the inner function's name.
        variables: values of the variables of `outer` that the inner function uses.

    Raises:
        ValueError: `outer` defines no such function, or `variables` are not those that it uses.
    """
    codes = [code for code in outer.__code__.co_consts if isinstance(code, CodeType) and code.co_name == name]
    if len(codes) != 1:
        raise ValueError(f"{outer.__qualname__} defines {len(codes)} functions {name!r}, must define one")
    uses = codes[0].co_freevars
    if set(uses) != set(variables):
        raise ValueError(f"{name} of {outer.__qualname__} uses the variables {sorted(uses)}, got {sorted(variables)}")
    cells = tuple(CellType(variables[used]) for used in uses)
    return FunctionType(codes[0], outer.__globals__, name, None, cells)


def without_init(kind: type, **attributes: Any) -> Any:
    """An object of a class whose `__init__` is not called, since it opens files, say; it has these attributes only."""
    made: Any = object.__new__(kind)
    vars(made).update(attributes)
    return made
