"""From a configuration to a trained run: data, Lightning's modules, evaluation, the run folder."""
