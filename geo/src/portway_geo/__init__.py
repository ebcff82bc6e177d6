"""Where an address is on the globe: an embedded table, or the operator's own .mmdb file."""
