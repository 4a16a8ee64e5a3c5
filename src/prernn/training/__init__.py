"""From a config to a trained run: data, Lightning's halves, evaluation, the run folder."""
