"""Finds events in the outputs of a network, and scores them: for tasks that have events."""
