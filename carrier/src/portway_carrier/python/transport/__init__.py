"""Connections over TCP and TLS as asyncio protocols: how they are established, carry a stream of bytes, and end."""
