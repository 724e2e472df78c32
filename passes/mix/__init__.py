"""Mixed precision: which bits and which zeros each layer gets, so that the model keeps within a budget."""
