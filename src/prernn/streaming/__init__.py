"""A trained network on a live source, frame by frame."""
