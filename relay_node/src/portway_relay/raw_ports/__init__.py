"""Raw TCP ports of a region: whose they are, who may give them, and the sockets that listen on them."""
