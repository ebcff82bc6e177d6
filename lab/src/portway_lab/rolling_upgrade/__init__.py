"""The command scripts/rolling_upgrade."""
