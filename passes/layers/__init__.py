"""What passes know of one weighted layer: its weight as a matrix, and what calibration says of it."""
