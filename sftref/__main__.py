"""`python -m sftref` does what `sftref` does."""

import sys

from sftref.cli import main

sys.exit(main())
