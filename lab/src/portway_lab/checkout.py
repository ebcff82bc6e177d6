"""Where this checkout is: the lab runs from one, and is installed nowhere else."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
