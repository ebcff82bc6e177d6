"""The nodes' side of the registry: sessions, and which tunnel belongs to whom."""
