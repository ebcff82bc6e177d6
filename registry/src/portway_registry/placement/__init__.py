"""Which nodes a client should try, in which order: by position, by load, and by round trips that clients measured."""
