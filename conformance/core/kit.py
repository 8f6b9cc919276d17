"""Where this kit is: its folder, its import name, and the folder from which Python imports it.

The kit runs installed as `sftref.conformance`, from a clone as `conformance`, or as a copy anywhere in another
repository. All code that starts a child process or reads a file of the kit takes these names.
"""

from __future__ import annotations

from pathlib import Path

# This file is KIT/core/kit.py, and this module is PACKAGE.core.kit.
KIT = Path(__file__).parents[1]
PACKAGE = __name__.rpartition(".core.")[0]
# What must be on `sys.path` for `import PACKAGE`.
IMPORT_ROOT = KIT.parents[PACKAGE.count(".")]
INSTALLED = "sftref.conformance"
