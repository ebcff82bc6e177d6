"""The release, as in pyproject.toml (a test compares them): reading installed metadata at start would take 15 ms."""

VERSION = "0.1.0"
