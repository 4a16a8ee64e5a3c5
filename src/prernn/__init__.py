"""prernn: make any pre-trained CNN recurrent, so that it understands video frame by frame.

Every name is loaded when it is first used: ``import prernn`` itself loads nothing, not even torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prernn.conversion.accounting import matched_hidden_size, recurrent_parameters
    from prernn.conversion.calibration import calibrate
    from prernn.conversion.convert import convert, framewise, traditional
    from prernn.conversion.inflate import inflate
    from prernn.conversion.lighter.low_precision import low_precision
    from prernn.conversion.lighter.skipping import skip_zeros
    from prernn.conversion.network import RecurrentNetwork
    from prernn.conversion.rcn import convert_rcn
    from prernn.engines.allocator import keep_memory
    from prernn.engines.exported.export import export, export_onnx
    from prernn.layers.rnn import GRU, LSTM, VRNN
    from prernn.layers.structures.parse import hidden_structure
    from prernn.models.backbones import backbone
    from prernn.models.checkpoint import load, save
    from prernn.sparsity.online import online_sparsity
    from prernn.sparsity.path_convolution import PathConv2d
    from prernn.sparsity.path_network import PathNetwork
    from prernn.sparsity.paths import PathLinear
    from prernn.sparsity.quantization.packing import load_quantized, save_quantized
    from prernn.sparsity.quantization.quantize import quantization_report, quantize
    from prernn.sparsity.quantization.synthetic_inputs import synthetic_inputs
    from prernn.sparsity.sampled_paths import sample_paths
    from prernn.streaming.sources.source import Source
    from prernn.streaming.stream import Stream
    from prernn.streaming.stream_batch import StreamBatch

__version__: str
"""Of the installed distribution; ``pyproject.toml`` is the one place that says it."""

__all__ = [
    "GRU",
    "LSTM",
    "VRNN",
    "PathConv2d",
    "PathLinear",
    "PathNetwork",
    "RecurrentNetwork",
    "Source",
    "Stream",
    "StreamBatch",
    "backbone",
    "calibrate",
    "convert",
    "convert_rcn",
    "export",
    "export_onnx",
    "framewise",
    "hidden_structure",
    "inflate",
    "keep_memory",
    "load",
    "load_quantized",
    "low_precision",
    "matched_hidden_size",
    "online_sparsity",
    "quantization_report",
    "quantize",
    "recurrent_parameters",
    "sample_paths",
    "save",
    "save_quantized",
    "skip_zeros",
    "synthetic_inputs",
    "traditional",
]

_ROOMS = {
    "conversion.accounting": ("matched_hidden_size", "recurrent_parameters"),
    "conversion.calibration": ("calibrate",),
    "conversion.convert": ("convert", "framewise", "traditional"),
    "conversion.inflate": ("inflate",),
    "conversion.lighter.low_precision": ("low_precision",),
    "conversion.lighter.skipping": ("skip_zeros",),
    "conversion.network": ("RecurrentNetwork",),
    "conversion.rcn": ("convert_rcn",),
    "engines.exported.export": ("export", "export_onnx"),
    "layers.rnn": ("GRU", "LSTM", "VRNN"),
    "layers.structures.parse": ("hidden_structure",),
    "models.backbones": ("backbone",),
    "models.checkpoint": ("load", "save"),
    "sparsity.online": ("online_sparsity",),
    "sparsity.quantization.packing": ("load_quantized", "save_quantized"),
    "sparsity.path_network": ("PathNetwork",),
    "sparsity.path_convolution": ("PathConv2d",),
    "sparsity.paths": ("PathLinear",),
    "sparsity.sampled_paths": ("sample_paths",),
    "sparsity.quantization.quantize": ("quantization_report", "quantize"),
    "sparsity.quantization.synthetic_inputs": ("synthetic_inputs",),
    "streaming.sources.source": ("Source",),
    "streaming.stream": ("Stream",),
    "streaming.stream_batch": ("StreamBatch",),
    "engines.allocator": ("keep_memory",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("prernn")
    elif name in _ROOM_OF:
        value = getattr(importlib.import_module(f"prernn.{_ROOM_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'prernn' has no attribute {name!r}")
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
