"""The cluster's zone as the registry keeps it: records of operators, name servers, proofs for certificates."""
