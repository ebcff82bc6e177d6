"""Visitors of tunnels, the local servers that answer, and what visitors must see during and after a fault."""
