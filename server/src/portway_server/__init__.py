"""One machine of a Portway cluster: its settings, its processes, and how they are."""
