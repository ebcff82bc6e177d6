"""Back-ups of the store as files: what is in one, writing it, and filling a store from it."""
