"""Where the faces of a picture are: detectors, and their boxes over a whole video."""
