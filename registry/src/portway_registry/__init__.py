"""The Portway registry, and portway-admin."""
