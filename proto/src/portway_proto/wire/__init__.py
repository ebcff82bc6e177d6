"""The lane protocol without I/O: frames, the states of a lane, labels and what clients sign. WIRE.md specifies it."""
