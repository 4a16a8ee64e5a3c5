"""Actions in untrimmed video: a label at every frame, with background between the segments."""
