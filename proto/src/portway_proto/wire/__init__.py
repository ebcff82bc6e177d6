"""The lane protocol without I/O: frames, the states of a lane, labels and the statements that clients sign. WIRE.md specifies it."""
