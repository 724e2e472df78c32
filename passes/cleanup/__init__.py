"""Clean-up: rewrites that change what a graph looks like, not what it computes."""
