"""Generated stubs of etcd's API. Made by scripts/generate_stubs.py; not edited."""
