"""Structured pruning: whole channels go, with everything that reads or makes them."""
