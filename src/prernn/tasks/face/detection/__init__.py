"""Detects the faces in a picture: detectors, and their boxes over a whole video."""
