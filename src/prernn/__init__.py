"""prernn: make any pre-trained CNN recurrent, so that it understands video frame by frame."""

import importlib

from prernn.conversion.accounting import matched_hidden_size, recurrent_parameters
from prernn.conversion.convert import convert, framewise, traditional
from prernn.conversion.inflate import inflate
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.rcn import convert_rcn
from prernn.layers.rnn import GRU, LSTM, VRNN
from prernn.layers.structures.parse import hidden_structure
from prernn.sparsity.online import online_sparsity
from prernn.sparsity.paths import PathConv2d, PathLinear, PathNetwork
from prernn.sparsity.quantize import quantization_report, quantize

__version__ = "0.1.0"

# these need more than torch to load, so they come when they are asked for
_LAZY = {
    "load": "prernn.models.checkpoint",
    "save": "prernn.models.checkpoint",
    "Stream": "prernn.streaming.stream",
    "export_onnx": "prernn.models.onnx",
    "save_quantized": "prernn.sparsity.packing",
    "load_quantized": "prernn.sparsity.packing",
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
