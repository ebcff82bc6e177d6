"""What scripts/simulate is made of: a map with clients and nodes on it, driven by the registry's own placement.

Nothing here opens a socket. What is modelled (the Internet between two points, how wrong GeoIP is, how long tunnels are
open) is in geography.py, paths.py, clients.py and assumptions.py; what is decided comes from the sources themselves.
"""
