"""The gRPC services: one servicer each, which callers are admitted, and which status an error becomes."""
