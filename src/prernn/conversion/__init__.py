"""From a CNN to a recurrent or 3-D network, by surgery on its graph."""
