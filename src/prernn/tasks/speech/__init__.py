"""Speech recognition: letters out of sound, by CTC."""
