"""What data says of a model: sources of batches, streaming statistics of them, and solvers on those statistics."""
