"""How good a model's vectors are on texts whose answers are known: similarity, and retrieval."""
