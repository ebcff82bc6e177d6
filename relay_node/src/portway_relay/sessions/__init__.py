"""Clients' sessions: who a link lane is of, what a control lane asks for, what outlives a lost connection."""
