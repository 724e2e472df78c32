"""Secateur."""
