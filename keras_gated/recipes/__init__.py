"""The parts of the examples: text, classifiers, generators."""
