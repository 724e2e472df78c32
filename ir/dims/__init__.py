"""Dimensions: for every axis of every value, which indices must go together."""
