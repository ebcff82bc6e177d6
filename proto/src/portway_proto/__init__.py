"""What two sides of Portway share: messages, the lane protocol, the carrier."""
