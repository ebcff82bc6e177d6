"""Where a visitor goes: the tunnels bound at this node, routes to other nodes, and the lookup over both."""
