"""The story of a request: admit, key, ask the cache, join one computation, shape the answer. Knows no torch."""
