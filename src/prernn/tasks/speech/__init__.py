"""Speech recognition: from sound to letters, with CTC."""
