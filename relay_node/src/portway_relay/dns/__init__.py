"""The DNS servers of a node: names of the cluster's domain, answered from the nodes that this node knows."""
