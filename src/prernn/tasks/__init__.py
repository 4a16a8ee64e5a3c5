"""One module for each kind of task: its data sets, losses and scores."""
