"""Converting a CNN to a recurrent or 3-D network by editing its graph."""
