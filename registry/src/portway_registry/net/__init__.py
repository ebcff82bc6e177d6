"""Accepting connections for gRPC, which can neither bound nor evict them: from the first packet to its end."""
