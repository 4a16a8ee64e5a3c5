"""How many convolutions and matrix products of a file an engine computes in integers, which it decides on loading."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from prernn.engines import openvino_engine

ONNX_INTEGERS = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger"}
ONNX_FLOATS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
OPENVINO = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
"""Prefixes of the names of its layers."""


def products_in_integers(engine: str, path: Path) -> str:
    """The numbers in words, such as "52 of 52"."""
    found = list(_of_onnxruntime(path) if engine == "onnxruntime" else _of_openvino(path))
    return f"{sum(found)} of {len(found)}"


def _of_onnxruntime(path: Path) -> Iterator[bool]:
    """For the graph that it runs."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "run.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for node in onnx.load(options.optimized_model_filepath).graph.node:
            if node.op_type in ONNX_INTEGERS | ONNX_FLOATS:
                yield node.op_type in ONNX_INTEGERS


def _of_openvino(path: Path) -> Iterator[bool]:
    """For the graph that it compiles for one stream."""
    import openvino

    model = openvino_engine.model_of(path)
    model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        if str(about["layerType"].astype(str)).startswith(OPENVINO):
            yield "I8" in about["primitiveType"].astype(str)
