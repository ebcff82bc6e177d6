"""A Portway cluster on one machine: its programs as processes, networks with distance, clients and visitors that
check."""
