"""Action recognition: one label for a video, from its colors or its optical flow."""
