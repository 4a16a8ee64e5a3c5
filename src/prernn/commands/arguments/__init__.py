"""What the options of all commands share."""
