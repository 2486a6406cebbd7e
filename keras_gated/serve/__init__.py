"""Exports for TensorFlow Serving, and what they answer."""
