"""The cluster's data: the keys and records it consists of, its audit, and views of it in memory."""
