"""A cluster on machines of its own, from bare Debians to a visit: what scripts/field_test is made of."""
