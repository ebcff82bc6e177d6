"""The command portway-server; each of its commands is in the module of its name."""
