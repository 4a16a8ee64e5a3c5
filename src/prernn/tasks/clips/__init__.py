"""What tasks over clips of videos share."""
