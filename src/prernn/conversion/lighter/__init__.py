"""What makes a step of training lighter, and changes no value."""
