"""Videos and what is made of them: frames, clips, optical flow."""
