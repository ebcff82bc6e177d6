"""From an accepted connection to a decision about it: peek at the first bytes, decide, hand the socket over."""
