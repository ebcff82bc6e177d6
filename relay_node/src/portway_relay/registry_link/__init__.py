"""The link with a registry: calls on the current connection, the stream that keeps it up, and what both carry."""
