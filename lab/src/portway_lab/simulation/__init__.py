"""A mesh of thousands of nodes and a million tunnels on a map, simulated in one process with the code that decides.

No socket is opened. The world is modelled (geography.py, paths.py, clients.py, assumptions.py): the Internet between
two points, the errors of GeoIP, the lifetime of tunnels. Every decision is made by the code of client,
node and registry.
"""
