"""The other nodes: lanes to them and from them, and which of them holds a label."""
