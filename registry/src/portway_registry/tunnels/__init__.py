"""Labels and raw ports: which node's announcements hold them, and within which quota."""
