"""What is wrong with a cluster: checks that gather facts, and judges of these facts, which do no I/O."""
