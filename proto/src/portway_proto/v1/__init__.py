"""Generated stubs of package portway.v1. Made by scripts/generate_stubs.py; not edited."""
