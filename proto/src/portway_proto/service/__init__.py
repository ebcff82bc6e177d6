"""What the two servers have in common as processes: their logs, files that they read again, their life from start to signal."""
