"""A whole Portway cluster on one machine, shown to a person."""
