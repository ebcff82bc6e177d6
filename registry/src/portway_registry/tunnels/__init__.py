"""Who holds which label and which raw ports: announcements, ownership, quotas, blocks of ports."""
