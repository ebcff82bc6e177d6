"""Certificates: signing them, the cluster's CA, those of the registry's own ports, a CA in a folder."""
