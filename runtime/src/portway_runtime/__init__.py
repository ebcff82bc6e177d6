"""What the two servers have in common as processes: logs, files that are read again, life from start to signal."""
