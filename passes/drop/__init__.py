"""Removal of whole ops: residual blocks, and edges into concatenations."""
