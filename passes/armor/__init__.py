"""A sparse core between block-diagonal matrices in place of one dense matrix."""
