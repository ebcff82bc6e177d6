"""The release, as pyproject.toml has it (a test compares them): reading metadata at start would cost 15 ms."""

VERSION = "0.1.0"
