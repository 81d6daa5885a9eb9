"""`python -m minitrans` is the command line."""

import sys

from minitrans.cli import main

sys.exit(main())
