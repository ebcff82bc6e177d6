"""What a listening port needs before it knows a peer: accepting, limits on half-open connections, HTTP answers."""
