"""From an accepted connection to a decision: accept, peek, route, adopt (DESIGN §6)."""
