"""Videos and what is computed from them: frames, clips, optical flow. Also sound."""
