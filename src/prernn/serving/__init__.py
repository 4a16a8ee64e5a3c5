"""A server of many live streams: one network, one batch of steps for all who wait."""
