"""Sources that survive: read in a thread of their own, with a bounded queue, a time limit and reconnection."""
