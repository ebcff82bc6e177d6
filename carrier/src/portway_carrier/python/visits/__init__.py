"""Visits: a stream and a lane joined, on the opener's side, the acceptor's, and between two lanes."""
