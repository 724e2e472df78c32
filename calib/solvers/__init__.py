"""Numerical methods on arrays: they know no graph and no data set, only the sums that a `Gram` has gathered."""
