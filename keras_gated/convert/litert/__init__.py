"""LiteRT files (TensorFlow Lite), written and asked."""
