"""The release: the one place where it is written. Each distribution's pyproject.toml reads this file when it is built.

Programs read the constant: looking for installed metadata at start would take 15 ms.
"""

VERSION = "0.1.0"
