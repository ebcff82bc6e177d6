"""Parsers of bytes from outside, each with its invariant, and the bytes to try them with."""
