"""What stands in for the neighbours of a unit under test: each does what the test says and nothing else."""
