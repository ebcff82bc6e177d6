"""A node's membership of its cluster: joining by invitation, the certificate that it keeps, renewing it."""
