"""What the two servers have in common as processes: their logs, their life from start to signal."""
