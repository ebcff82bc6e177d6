"""What Portway's machines say to each other: messages, and the lane protocol without I/O."""
