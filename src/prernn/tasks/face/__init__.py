"""Face alignment: 68 points in each frame."""
