"""Raw TCP ports of a region: which label has which port, which node may give it, and the sockets that listen."""
