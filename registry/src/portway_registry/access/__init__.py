"""Credentials: API tokens, invitations, grants and the keys that sign them, and what the first start creates."""
