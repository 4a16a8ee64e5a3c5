"""Law 8: an exported network computes what the network does, at any batch size and length."""

import importlib.util
import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision import models

import prernn
from prernn import export_onnx
from prernn.engines.exported import onnx_file as export
from prernn.layers.cells import CELLS
from prernn.layers.input_to_hidden import INPUTS
from small_cnns import CNNS, FcNet, ResidualNet, SnippetNet, prepare, shake
from strategies import example_specs

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
STRUCTURES = [examples[-1] for examples in example_specs().values() if examples]


def _is_quick(ending, cell, input, hidden):
    """Each cell with each CNN and with each input form, and each time with another structure."""
    number = list(CELLS).index(cell) * len(CNNS) + list(CNNS).index(ending)
    chosen = list(INPUTS)[sum(divmod(number, len(CNNS))) % len(INPUTS)]
    return input == chosen and STRUCTURES.index(hidden) == number % len(STRUCTURES)


# every cell, input form and CNN together with all structures is slow
MATRIX = [
    pytest.param(*parts, id="-".join(parts), marks=[] if _is_quick(*parts) else pytest.mark.slow)
    for parts in itertools.product(CNNS, CELLS, INPUTS, STRUCTURES)
]


def convert(ending, cell, input, hidden):
    cnn = CNNS[ending]
    return shake(prernn.convert(prepare(cnn()).float(), cnn.layer, cell=cell, input=input, hidden=hidden)).eval()


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session, frame, leaves):
    """Output and next leaves, as tensors."""
    names = [value.name for value in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in zip(names, [frame, *leaves], strict=True)}
    output, *following = session.run(None, feeds)
    return torch.from_numpy(output), [torch.from_numpy(leaf) for leaf in following]


def flat(state):
    return [leaf for part in state for leaf in part]


@torch.no_grad()
def assert_steps(net, path, shape, batches=(2, 5, 1), steps=4):
    """The file's steps equal the network's, the state passed on."""
    steps_of_file = session(path)
    for batch in batches:
        state, leaves = net.init_state(batch), flat(net.init_state(batch))
        for frame in torch.randn(steps, batch, *shape):
            expected, state = net.step(frame, state)
            output, leaves = run(steps_of_file, frame, leaves)
            torch.testing.assert_close([output, *leaves], [expected, *flat(state)], **CLOSE)
    assert expected.std() > 1e-3  # outputs that are worth comparing


@torch.no_grad()
def assert_sequences(net, path, shape, sizes=((2, 3), (5, 7), (1, 1))):
    """The file's sequences, in two chunks with the state passed on, equal the network's."""
    file = session(path)
    for batch, steps in sizes:
        first, second = torch.randn(2, batch, steps, *shape)
        expected, state = net(torch.cat([first, second], 1))
        output, leaves = run(file, first, flat(net.init_state(batch)))
        more, leaves = run(file, second, leaves)
        torch.testing.assert_close([torch.cat([output, more], 1), *leaves], [expected, *flat(state)], **CLOSE)


@pytest.mark.parametrize(("ending", "cell", "input", "hidden"), MATRIX)
def test_exported_step_is_the_networks(ending, cell, input, hidden, tmp_path):
    net = convert(ending, cell, input, hidden)
    export_onnx(net, tmp_path / "step.onnx", image_size=(8, 8))
    assert_steps(net, tmp_path / "step.onnx", (3, 8, 8))


SEQUENCES = [  # a few, one for each cell; all together are slow
    pytest.param(*case.values, id=case.id, marks=[] if number in (0, 56, 64) else pytest.mark.slow)
    for number, case in enumerate(MATRIX)
]


@pytest.mark.parametrize(("ending", "cell", "input", "hidden"), SEQUENCES)
def test_exported_sequence_is_the_networks(ending, cell, input, hidden, tmp_path):
    net = convert(ending, cell, input, hidden)
    export_onnx(net, tmp_path / "sequence.onnx", "sequence", image_size=(8, 8))
    onnx.checker.check_model(tmp_path / "sequence.onnx", full_check=True)
    assert_sequences(net, tmp_path / "sequence.onnx", (3, 8, 8))


def test_several_layers(tmp_path):
    cnn = prernn.convert(FcNet(), ["fc6", "fc7"], cell="lstm", hidden="grouped:2")
    net = prernn.traditional(cnn, cell="gru", hidden_size=7).eval()
    for kind, compare in (("step", assert_steps), ("sequence", assert_sequences)):
        export_onnx(net, tmp_path / "net.onnx", kind, image_size=(8, 8))
        compare(net, tmp_path / "net.onnx", (3, 8, 8))
    names = ["state_0_h", "state_0_c", "state_1_h", "state_1_c", "state_2_h"]
    file = session(tmp_path / "net.onnx")
    inputs, outputs = file.get_inputs(), file.get_outputs()
    assert [value.name for value in inputs] == ["video", *names]
    assert [value.name for value in outputs] == ["output", *(f"next_{name}" for name in names)]
    assert inputs[0].shape == ["batch", "time", 3, 8, 8]
    assert outputs[0].shape == ["batch", "time", 5]
    assert inputs[5].shape == outputs[5].shape == ["batch", 7]


def test_network_without_recurrence(tmp_path):
    net = prernn.framewise(ResidualNet()).eval()
    export_onnx(net, tmp_path / "net.onnx", "sequence", image_size=(8, 8))
    assert_sequences(net, tmp_path / "net.onnx", (3, 8, 8))


def test_network_of_snippets(tmp_path):
    net = prernn.convert(SnippetNet(), "fc6", image_size=(4, 8, 8)).eval()
    export_onnx(net, tmp_path / "net.onnx", "sequence")
    assert_sequences(net, tmp_path / "net.onnx", (3, 4, 8, 8))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18", "step"),
        pytest.param("mobilenet_v2", "sequence", marks=pytest.mark.slow),
        pytest.param("resnet18", "sequence", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "step", marks=pytest.mark.slow),
    ],
)
def test_torchvision_cnns(name, kind, tmp_path):
    net = prernn.convert(getattr(models, name)(), outputs=7, hidden="band:1%").eval()
    nn.init.normal_(net.output_layer.weight)
    export_onnx(net, tmp_path / "net.onnx", kind, image_size=(32, 32))
    if kind == "step":
        assert_steps(net, tmp_path / "net.onnx", (3, 32, 32), batches=(1, 3), steps=3)
    else:
        assert_sequences(net, tmp_path / "net.onnx", (3, 32, 32), sizes=((1, 3), (3, 2)))


# what else the file holds, and how it comes about


def test_file_says_labels_transform_and_takes_the_transforms_size(tmp_path):
    net = prernn.convert(ResidualNet()).eval()
    labels, transform = ["a", "b", "c", "d", "ü"], {"size": 12, "resize": 16}
    net.recipe = replace(net.recipe, labels=labels, transform=transform)
    export_onnx(net, tmp_path / "net.onnx", "sequence")
    file = session(tmp_path / "net.onnx")
    metadata = file.get_modelmeta().custom_metadata_map
    assert (json.loads(metadata["labels"]), json.loads(metadata["transform"])) == (labels, transform)
    assert file.get_inputs()[0].shape[-2:] == ["height", "width"]
    assert json.loads(metadata["prernn"])["frame_shape"] == [3, 12, 12]
    assert {entry.version for entry in onnx.load(tmp_path / "net.onnx").opset_import} == {18}


def test_network_keeps_its_mode_and_gradients(tmp_path):
    net = prernn.convert(FcNet()).train()
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export_onnx(net, tmp_path / "net.onnx", image_size=(8, 8))
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert_steps(net.eval(), tmp_path / "net.onnx", (3, 8, 8), batches=(2,))  # dropout is off in the file


def test_weights_that_no_onnx_file_can_hold_get_one_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGE", 100)
    net = prernn.convert(ResidualNet(), cell="lstm").eval()
    export_onnx(net, tmp_path / "net.onnx", "sequence", image_size=(8, 8))
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    assert_sequences(net, tmp_path / "net.onnx", (3, 8, 8), sizes=((2, 3),))


def test_file_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")

    def full_disk(self, destination, **options):
        destination.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", full_disk)
    net = prernn.framewise(FcNet()).eval()
    with pytest.raises(OSError, match=r"not written: No space left on device: .*net.onnx"):
        export_onnx(net, path, image_size=(8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == b"before"


class Bessel(nn.Module):
    """An activation that ONNX has no operator for."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_network_that_cannot_be_exported(tmp_path):
    net = prernn.framewise(nn.Sequential(nn.Conv2d(3, 4, 1), Bessel())).eval()
    with pytest.raises(NotImplementedError, match=r"torch can't export this network to ONNX: .*bessel_j0"):
        export_onnx(net, tmp_path / "net.onnx", image_size=(8, 8))
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path, monkeypatch):
    net = prernn.framewise(FcNet())
    with pytest.raises(ValueError, match="kind to be one of step, sequence, got 'frame'"):
        export_onnx(net, tmp_path / "net.onnx", "frame")
    for size in ((0, 8), (8,)):
        with pytest.raises(ValueError, match="at least 1 pixel"):
            export_onnx(net, tmp_path / "net.onnx", image_size=size)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs onnx and onnxscript: pip install "prernn\[onnx\]"'):
        export_onnx(net, tmp_path / "net.onnx")
