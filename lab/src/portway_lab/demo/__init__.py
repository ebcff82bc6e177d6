"""The command scripts/demo."""
