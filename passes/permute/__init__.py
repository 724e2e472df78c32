"""Channels in another order: the same function, and masks of N of M neighbours that keep more of it."""
