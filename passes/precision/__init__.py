"""Floating point of 16 bits where it does no harm, of 32 where it would."""
