"""Masks that were learned elsewhere, by training, become surgery."""
