"""LiteRT files (TensorFlow Lite): writing, and comparing with the model."""
