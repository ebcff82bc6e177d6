"""A whole Portway on this machine, as processes: what the demo shows and the benchmark measures."""
