"""What a listening port needs before it knows a peer: its address, accepting, limits, answers in plain HTTP."""
