"""What the registry answers over gRPC."""
