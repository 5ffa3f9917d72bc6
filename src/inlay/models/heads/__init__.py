"""From hidden states to outputs: one file a kind, named in `models.registry.OUTPUTS`."""
