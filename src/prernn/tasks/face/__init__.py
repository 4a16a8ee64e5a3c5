"""Face alignment: 68 landmarks in each frame."""
