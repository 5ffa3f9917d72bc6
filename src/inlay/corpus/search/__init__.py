"""Search over a corpus: exact, by an index, filtered, and many queries at once."""
