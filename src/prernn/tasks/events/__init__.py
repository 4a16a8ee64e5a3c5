"""What finds events in the outputs of a network, and how well: for tasks that have any."""
