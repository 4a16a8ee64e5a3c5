"""What OpenVINO makes of a residual network in integers: from the first convolution to the last all is in 8 bits."""

import numpy as np
import pytest
import torch

import prernn
from prernn.engines.agreement import noise
from prernn.models.networks.cifar_resnet import CifarResNet

openvino = pytest.importorskip("openvino")

SHORTCUT = {"Pad", "Slice", "StridedSlice", "Subgraph"}
"""What shortcuts between two sizes are made of, and the sum behind one; all other sums are part of convolutions."""


def steps_between_convolutions(path):
    """``[(type, implementation)]`` of what is executed from the first convolution to the last, in order."""
    model = openvino.Core().read_model(path)
    model.reshape([1, *list(model.inputs[0].get_partial_shape())[1:]])
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    request.infer([np.zeros(request.input_tensors[0].shape, np.float32)])
    done = [step for step in request.profiling_info if step.status == step.Status.EXECUTED]
    steps = [(step.node_type, step.exec_type) for step in done]
    places = [place for place, (kind, _) in enumerate(steps) if kind == "Convolution"]
    return steps[places[0] : places[-1] + 1]


@pytest.mark.skipif(
    "INT8" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this processor has no integer kernels",
)
@pytest.mark.parametrize("samples", [None, 1.2])
def test_nothing_between_convolutions_is_in_floats(samples, tmp_path):
    torch.manual_seed(0)
    net = CifarResNet(8).eval()
    if samples is not None:
        net = prernn.quantize(net, samples)
    net = prernn.framewise(net)
    net.frame_shape = (3, 32, 32)
    path = tmp_path / "step.xml"
    prernn.export(net, path, "openvino", image_size=(32, 32), precision="int8", inputs=noise(net, 4, 1))
    steps = steps_between_convolutions(path)
    assert sum(kind == "Convolution" for kind, _ in steps) == 7
    assert {kind for kind, _ in steps} <= {"Convolution"} | SHORTCUT
    assert all(made.endswith("I8") for _, made in steps), steps
