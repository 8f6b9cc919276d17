"""Where this kit is: its folder, its import name, and the folder from which Python imports it.

The kit runs installed as `sftref.conformance`, from a clone as `conformance`, or as a copy anywhere in another
repository. Code that starts a child process or reads a file of the kit uses these constants.
"""

import sys
from pathlib import Path

# This file is KIT/core/kit.py, and this module is PACKAGE.core.kit.
KIT = Path(__file__).parents[1]
PACKAGE = __name__.rpartition(".core.")[0]
INSTALLED = "sftref.conformance"
# The folder that must be on `sys.path` for `import PACKAGE`. In a clone, the folder `conformance` is beside the folder
# `sftref`, not in it. A namespace package has no `__file__`.
_TOP = getattr(sys.modules[PACKAGE.partition(".")[0]], "__file__", None)
IMPORT_ROOT = Path(_TOP).parents[1] if _TOP else KIT.parents[PACKAGE.count(".")]
# Whether a new process can import the kit without IMPORT_ROOT on its path; False in a clone or a copy.
IN_SITE_PACKAGES = PACKAGE == INSTALLED and KIT.parent == IMPORT_ROOT / "sftref"
