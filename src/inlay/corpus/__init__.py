"""Precomputed corpora: made once, then a cache tier and searchable."""
