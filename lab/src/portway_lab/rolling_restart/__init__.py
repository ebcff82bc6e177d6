"""A rolling restart of every node of a mesh over distance, and the way of its clients back to their nearest nodes."""
