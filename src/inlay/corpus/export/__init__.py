"""A corpus in a vector database: one file a client."""
