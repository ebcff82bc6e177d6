"""The lane protocol without I/O: frames, the states of a lane, labels and their proofs. WIRE.md specifies it."""
