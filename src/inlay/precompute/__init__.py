"""Texts in, a corpus out: read, embed once, write, take up again after a fault."""
