"""`python -m portway` is the command `portway`."""

import sys

from portway.cli import main

sys.exit(main())
