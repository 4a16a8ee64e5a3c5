"""Action recognition: one label for a video, from colours or optical flow."""
