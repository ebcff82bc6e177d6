"""portway-admin: what operators ask the registry, and the local certificate authority."""
