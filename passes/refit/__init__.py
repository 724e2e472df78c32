"""What is left of a model, fitted by gradients to what the whole model gave."""
