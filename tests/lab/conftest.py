"""Lets the lab's tests import its modules, as its lessons do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "kernels" / "lessons"))
