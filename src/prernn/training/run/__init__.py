"""The folder of a run: what training and tests write there, and what other commands read."""
