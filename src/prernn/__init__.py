"""prernn: make any pre-trained CNN recurrent, so that it understands video frame by frame."""

import importlib

from prernn.accounting import matched_hidden_size, recurrent_parameters
from prernn.convert import convert, framewise, traditional
from prernn.inflate import inflate
from prernn.network import RecurrentNetwork
from prernn.online import online_sparsity
from prernn.paths import PathConv2d, PathLinear, PathNetwork
from prernn.quantize import quantization_report, quantize
from prernn.rcn import convert_rcn
from prernn.rnn import GRU, LSTM, VRNN
from prernn.structures import hidden_structure

__version__ = "0.1.0"

# these need more than torch to load, so they come when they are asked for
_LAZY = {
    "load": "prernn.checkpoint",
    "save": "prernn.checkpoint",
    "Stream": "prernn.streaming",
    "export_onnx": "prernn.export",
    "save_quantized": "prernn.packing",
    "load_quantized": "prernn.packing",
}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'prernn' has no attribute {name!r}")


__all__ = [
    "GRU",
    "LSTM",
    "VRNN",
    "PathConv2d",
    "PathLinear",
    "PathNetwork",
    "RecurrentNetwork",
    "Stream",
    "convert",
    "convert_rcn",
    "export_onnx",
    "framewise",
    "hidden_structure",
    "inflate",
    "load",
    "load_quantized",
    "matched_hidden_size",
    "online_sparsity",
    "quantization_report",
    "quantize",
    "recurrent_parameters",
    "save",
    "save_quantized",
    "traditional",
]
