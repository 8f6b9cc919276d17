"""The command line of the kit, where it is run as a copy."""

import sys

from .cli import main

sys.exit(main())
