"""Checkpoints: where they lie, what they say of themselves, their weights, and one forward pass a family."""
