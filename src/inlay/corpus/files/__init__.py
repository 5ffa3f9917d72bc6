"""The files of one part of a corpus: what they hold, written row by row, read row by row."""
