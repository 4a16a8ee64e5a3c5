"""What tasks on video clips share."""
