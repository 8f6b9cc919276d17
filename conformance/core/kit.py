"""Where this kit is: its folder, its import name, and the folder from which Python imports it.

The kit runs installed as `sftref.conformance`, from a clone as `conformance`, or as a copy anywhere in another
repository. All code that starts a child process or reads a file of the kit takes these names.
"""

import sys
from pathlib import Path

# This file is KIT/core/kit.py, and this module is PACKAGE.core.kit.
KIT = Path(__file__).parents[1]
PACKAGE = __name__.rpartition(".core.")[0]
INSTALLED = "sftref.conformance"
# The folder that must be on `sys.path` for `import PACKAGE`. In a clone `sftref.conformance` is beside `sftref`, not in
# it; a namespace package has no file.
_TOP = getattr(sys.modules[PACKAGE.partition(".")[0]], "__file__", None)
IMPORT_ROOT = Path(_TOP).parents[1] if _TOP else KIT.parents[PACKAGE.count(".")]
# Whether a new process finds the kit without IMPORT_ROOT on its path: in a clone and in a copy it does not.
IN_SITE_PACKAGES = PACKAGE == INSTALLED and KIT.parent == IMPORT_ROOT / "sftref"
