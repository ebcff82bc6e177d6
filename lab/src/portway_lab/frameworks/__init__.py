"""Web frameworks behind a tunnel, used in a real browser: what needs a setting because it cannot see the https."""
