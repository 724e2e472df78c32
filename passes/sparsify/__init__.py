"""Sparsity inside weights: zeros in a pattern that hardware can skip, shapes as they were."""
