"""Layers that read some of what a trunk offers: the trunk stays whole."""
