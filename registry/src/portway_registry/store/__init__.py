"""The database: a revisioned map with leases and watches, as one contract with two implementations."""
