"""Exports for TensorFlow Serving, and the signatures that they answer with."""
