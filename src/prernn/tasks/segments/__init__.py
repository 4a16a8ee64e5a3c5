"""Actions in untrimmed video: a label at every frame, and background between the segments."""
