"""The release, as the installed distribution says."""

from importlib.metadata import version

VERSION = version("portway-relay")
