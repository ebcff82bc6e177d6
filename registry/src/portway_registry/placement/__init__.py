"""Which nodes a client should try, and in what order. Pure: no I/O, no clock."""
