"""Data sets as tensors. Nothing here knows models or learning rules."""
