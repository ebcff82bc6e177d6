"""What the commands in scripts/ are made of."""
