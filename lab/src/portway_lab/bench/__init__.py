"""What scripts/bench is made of: the contestants, the load, the measures, the mesh, the report.

`downloads`, `connections`, `latency`, `idle`, `forward_ready`, `forward_once` and `hold_tunnel` are programs of their
own, so that what they burn is not counted and their interpreter's lock holds up nobody else.
"""
