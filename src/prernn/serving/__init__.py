"""A server for many live streams: one network, and one batch of steps for all waiting clients."""
