"""Sockets before anything is known of them: listening, bounds on half-open connections, plain HTTP answers."""
