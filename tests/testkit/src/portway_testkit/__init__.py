"""Starts whole Portway clusters inside a test process."""
