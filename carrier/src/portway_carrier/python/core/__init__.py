"""What all parts of a Python carrier share: event loop, limits, buffers, live sets, counters, deferred callbacks."""
