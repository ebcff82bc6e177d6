"""How a node becomes one of the cluster, and stays one."""
