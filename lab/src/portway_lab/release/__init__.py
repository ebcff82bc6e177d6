"""A release: distributions, the Debian package, container images, and what says what is in them."""
