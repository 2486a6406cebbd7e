"""What the examples are made of: text, classifiers, generators."""
