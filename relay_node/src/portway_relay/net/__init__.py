"""What a listening port says before it knows a peer: its address, and answers in plain HTTP."""
