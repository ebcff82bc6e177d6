"""The lane protocol (WIRE.md) without I/O: frames, the states of a lane, labels, statements that clients sign."""
