"""Engines and front ends in processes of their own: what they say to each other, and who starts them again."""
