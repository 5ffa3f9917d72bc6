"""Which sentences are near in meaning? In process, without a server."""

from inlay import Embedder

SENTENCES = [
    "The cat sleeps on the warm stove.",
    "A kitten naps where it is cosy.",
    "Interest rates rose again this spring.",
    "The central bank makes borrowing dearer.",
]

with Embedder("demo") as embedder:
    vectors = embedder.embed(SENTENCES)

similarities = vectors @ vectors.T  # unit vectors: the product is the cosine
for first, row in zip(SENTENCES, similarities, strict=True):
    row[SENTENCES.index(first)] = -1
    print(f"{first:42} ~ {SENTENCES[row.argmax()]:42} {row.max():.2f}")
