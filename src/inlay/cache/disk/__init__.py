"""The disk tier: records in segment files, an index of them in LMDB, one writer behind the replies."""
