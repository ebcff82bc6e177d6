"""portway-admin: the command with which operators look after a cluster, and the local certificate authority."""
