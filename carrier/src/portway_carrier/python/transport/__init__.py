"""Connections: TCP and TLS as asyncio protocols, how one is brought up, and streams on top of them."""
