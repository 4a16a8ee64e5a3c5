"""Layers of ours and of torch side by side."""

import torch

import prernn

DOUBLE = {"dtype": torch.float64}
OURS = {"vrnn": prernn.VRNN, "lstm": prernn.LSTM, "gru": prernn.GRU}


def draw_state(kind, *shape):
    h, c = torch.randn(2, *shape, **DOUBLE)
    return {"lstm": (h, c), "projected": (h[..., :1], c)}.get(kind, h)
