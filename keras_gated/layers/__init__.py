"""Layers over whole sequences, with their states and directions."""
