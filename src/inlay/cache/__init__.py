"""Where outputs are kept so that none is computed twice: the key, the tiers, the order they are asked in."""
