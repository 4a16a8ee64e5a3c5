"""What all commands' options have in common."""
