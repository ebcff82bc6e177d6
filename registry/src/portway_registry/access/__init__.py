"""Who may call the registry: tokens, invitations, grants and their keys, and what the first start makes."""
