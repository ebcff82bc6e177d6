"""Where an IP address is on the globe, how far places are apart, and which of many is nearest."""
