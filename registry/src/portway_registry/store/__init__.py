"""Where the registry keeps what must outlive it: one contract, two stores."""
