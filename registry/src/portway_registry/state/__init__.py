"""What is kept in the store: keys, records, and views of them in memory."""
