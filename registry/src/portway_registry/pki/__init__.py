"""X.509 certificates: issuing them, the cluster's CA, the certificates of the registry's ports, a CA in files."""
