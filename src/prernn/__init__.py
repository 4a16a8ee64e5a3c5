"""prernn: make any pre-trained CNN recurrent, so that it understands video frame by frame."""

from prernn.accounting import matched_hidden_size, recurrent_parameters
from prernn.convert import convert, framewise, traditional
from prernn.network import RecurrentNetwork
from prernn.rnn import GRU, LSTM, VRNN
from prernn.structures import hidden_structure

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "VRNN",
    "RecurrentNetwork",
    "convert",
    "framewise",
    "hidden_structure",
    "matched_hidden_size",
    "recurrent_parameters",
    "traditional",
]
