"""The labels of CTC's most probable path, all at once: what `GreedyDecoder` finds step by step."""

import torch
from torch import Tensor

from prernn.tasks.events.ctc_decoders import BLANK


def best_path(scores: Tensor) -> list[int]:
    """Labels of CTC's most probable path through ``scores (T, K)``: repeats merged, blanks dropped."""
    path = torch.unique_consecutive(scores.argmax(-1))
    return [int(label) for label in path if label != BLANK]
