"""`python -m conformance`: the command line of a copy of the kit."""

import sys

from .cli import main

sys.exit(main())
