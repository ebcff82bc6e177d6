"""Framed connections, the pools that lend them to visits, and the spare ones that a dialling pool keeps ready."""
