"""Other bases for what layers hand on: the same function, with what matters least in dimensions of its own."""
