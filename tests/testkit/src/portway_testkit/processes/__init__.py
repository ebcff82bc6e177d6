"""Programs as processes of the operating system: their ports, their descriptors, their output and end."""
