"""Faces in streams: tremble and lag."""
