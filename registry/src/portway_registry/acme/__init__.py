"""Certificates from an ACME server: for every region's names and for the registry's own, kept valid by one replica."""
