"""Visits: a stream and a lane joined, how that begins on the opener's and the acceptor's side, and how it ends."""
