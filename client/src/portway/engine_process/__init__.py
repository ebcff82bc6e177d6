"""The engine in a child process, for programs that compute (`forward(process=True)`)."""
