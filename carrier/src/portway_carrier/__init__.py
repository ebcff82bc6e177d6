"""Carriers: what moves bytes. `contract` says what one does; `python` is the one that is always there."""
