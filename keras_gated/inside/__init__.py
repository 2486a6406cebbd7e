"""What happens inside of a trained model: gates, and how gradients travel."""
