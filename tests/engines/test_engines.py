"""A stream gives the same in every engine, goes on in another, and follows its network."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import prernn
from exported_networks import KINDS, size_of, some_frames
from prernn.conversion.clip_network import is_clip_network
from prernn.conversion.graph.nodes import module_calls, submodule_of
from prernn.engines import choice, kept, onnxruntime_engine, opening, openvino_engine
from prernn.engines.agreement import difference
from prernn.engines.engine_network import in_steps
from prernn.engines.exported.export import FORMATS, export
from prernn.engines.fused_convolutions import LAYOUTS, FusedConvolution
from prernn.engines.opening import ENGINES, opened
from prernn.engines.torch_engine import TorchNetwork
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.models.networks.deep_speech import deep_speech
from prernn.ops.backends import has_bfloat16
from small_cnns import PlainNet, ResidualNet, prepare

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


FILED = ("conv", "snippets")
"""Kinds whose files are streamed too."""


def frames_of(net, name, steps):
    return some_frames(net, 1, steps, size_of(name))[0]


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_goes_on_in_any_engine(name, tmp_path):
    """Two frames in each, the state saved and loaded between them, from a network and from its files."""
    net = KINDS[name]()
    sources = [*((net, {"engine": engine, "threads": 1}) for engine in ENGINES)]
    for format, ending in FORMATS.items() if name in FILED else ():
        export(net, tmp_path / f"net{ending}", format, image_size=size_of(name))
        sources.append((tmp_path / f"net{ending}", {}))
    frames, state, saved = frames_of(net, name, 2 * len(sources)), None, None
    for number, (source, options) in enumerate(sources):
        stream = prernn.Stream(source, **options)
        if saved is not None and net.state_names:
            stream.load_state_dict(load_file(saved))
        for frame in frames[2 * number : 2 * number + 2]:
            with torch.no_grad():
                expected, state = net.step(frame.unsqueeze(0), state)
            torch.testing.assert_close(stream(frame), expected[0], **CLOSE)
        saved = tmp_path / "state.safetensors"
        save_file(stream.state_dict(), saved)


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_side_by_side_reset_and_wrong_frames(engine):
    net = KINDS["conv"]()
    stream = prernn.Stream(net, engine, batch_size=3)
    frames = torch.randn(4, 3, 3, 8, 8)
    first = [stream(frame) for frame in frames]
    stream.reset()
    torch.testing.assert_close([stream(frame) for frame in frames], first, rtol=0, atol=0)
    broken = frames[0].clone()
    broken[1, 0, 0, 0] = float("nan")
    before = stream.state_dict()
    for wrong, words in (
        (broken, "finite numbers"),
        (frames[0][:, :2], "expected a frame"),
        (frames[0].long(), "expected a frame"),
        (frames[0][:2], "3 streams"),
    ):
        with pytest.raises(ValueError, match=words):
            stream(wrong)
    torch.testing.assert_close(stream.state_dict(), before, rtol=0, atol=0)
    alone, state = prernn.Stream(net, engine), None
    with torch.no_grad():
        for frame in frames:
            expected, state = net.step(frame[1:2], state)
            torch.testing.assert_close(alone(frame[1]), expected[0], **CLOSE)
    with pytest.raises(ValueError, match="expected the state"):
        alone.load_state_dict({"state_0_c": torch.zeros(1, 8)})


def test_a_file_of_one_size_refuses_others_and_goes_on(tmp_path):
    net = KINDS["conv"]()
    export(net, tmp_path / "net.onnx", image_size=(8, 8))
    stream = prernn.Stream(tmp_path / "net.onnx")
    stream(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="expected engine onnxruntime or openvino for such a file, got torch"):
        prernn.Stream(tmp_path / "net.onnx", "torch")
    with pytest.raises(ValueError, match=r"expected a frame \(3, 8, 8\) as the file's, got \(3, 9, 8\)"):
        stream(torch.zeros(3, 9, 8))
    stream(torch.zeros(3, 8, 8))


# torch


def modules(cnn, kind):
    return [part for part in cnn.modules() if isinstance(part, kind)]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm/tf_efficientnet_lite0", "densenet121"])
def test_all_convolutions_are_fused_and_nothing_changes(name):
    cnn = prepare(prernn.backbone(name, pretrained=False)).float()
    net = prernn.convert(cnn, hidden="diagonal", outputs=5).eval()
    nn.init.normal_(net.output_layer.weight)
    fast, frames = TorchNetwork(net), torch.randn(2, 2, 3, 65, 70)
    inside = sum(len(modules(layer, nn.Conv2d)) for layer in net.recurrent_layers)
    cnn = fast._ready.stepper.cnn
    assert len(modules(cnn, FusedConvolution)) == len(modules(net, nn.Conv2d)) - inside
    steps = {type(submodule_of(cnn, node)) for node in module_calls(cnn.graph)}
    assert name != "resnet18" or steps == {FusedConvolution, nn.MaxPool2d, RecurrentLayer, nn.Linear}
    with torch.no_grad():
        got, expected = in_steps(fast, frames, None), in_steps(net, frames, None)
    assert difference(got[0], expected[0]) < 1e-4
    assert difference(got[1][0][0], expected[1][0][0]) < 1e-3


def test_fused_weights_follow_the_network():
    net = prernn.convert(prepare(ResidualNet()).float(), image_size=(8, 8)).eval()
    stream, frame = prernn.Stream(net), torch.randn(3, 8, 8)
    changes = [
        lambda: net.cnn.bn0.running_mean.add_(1),
        lambda: net.cnn.stem.weight.mul_(2),
        lambda: net.load_state_dict({k: v * 0.9 for k, v in net.state_dict().items()}),
        lambda: net.output_layer.weight.mul_(3),
    ]
    for change in changes:
        before = stream(frame)
        stream.reset()
        with torch.no_grad():
            change()
            expected = net.step(frame[None])[0][0]
        torch.testing.assert_close(stream(frame), expected, **CLOSE)
        stream.reset()
        assert not torch.allclose(expected, before, rtol=1e-3)


def test_weights_are_laid_out_for_each_number_of_threads_and_size():
    """With the layout of another a frame of ResNet-50 took twice as long."""
    net = prernn.convert(prepare(ResidualNet()).float(), image_size=(8, 8)).eval()
    runs, before = TorchNetwork(net), torch.get_num_threads()
    (part, *_) = runs._ready._fused
    try:
        for threads, batch in ((1, 1), (2, 1), (2, 3), (1, 1)):
            torch.set_num_threads(threads)
            frames = torch.randn(batch, 3, 8, 8)
            torch.testing.assert_close(runs.step(frames)[0], net.step(frames)[0], **CLOSE)
        assert [(threads, shape[0]) for threads, shape in part._packed] == [(1, 1), (2, 1), (2, 3)]
        for batch in range(4, 10):
            runs.step(torch.randn(batch, 3, 8, 8))
        assert len(part._packed) == LAYOUTS
    finally:
        torch.set_num_threads(before)


class KeywordNet(nn.Module):
    """Calls its convolution by keyword."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc6 = nn.Conv2d(3, 4, 3), nn.Linear(4, 12)

    def forward(self, x):
        return self.fc6(self.conv(input=x).relu().mean((2, 3)))


def test_a_convolution_called_by_keyword_stays():
    net = prernn.convert(KeywordNet(), "fc6", image_size=(8, 8), cell="gru").eval()
    frame = torch.randn(3, 8, 8)
    torch.testing.assert_close(prernn.Stream(net)(frame), net.step(frame[None])[0][0], **CLOSE)


def test_hooks_see_what_they_watch():
    net = prernn.convert(prepare(ResidualNet()).float(), image_size=(8, 8)).eval()
    seen = []
    net.cnn.conv1.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    prernn.Stream(net)(torch.randn(3, 8, 8))
    assert seen == [(1, 6, 4, 4)]


def test_double_precision_stays_and_training_mode_comes_back():
    net = prernn.convert(prepare(ResidualNet()), image_size=(8, 8)).train()
    stream, frame = prernn.Stream(net), torch.randn(3, 8, 8, dtype=torch.float64)
    out = stream(frame)
    assert net.training
    with torch.no_grad():
        torch.testing.assert_close(out, net.eval().step(frame[None])[0][0], rtol=0, atol=0)


def test_the_reference_is_torch_alone(monkeypatch):
    from prernn.engines import fused_convolutions

    net = prernn.convert(prepare(PlainNet()).float(), image_size=(8, 8)).eval()
    frame = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = net.step(frame)[0]
        monkeypatch.setattr(fused_convolutions, "_onednn_works", lambda: False)
        torch.testing.assert_close(TorchNetwork(net).step(frame)[0], expected, **CLOSE)


@pytest.mark.skipif(not has_bfloat16(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_is_close_and_keeps_its_state_in_float32(engine):
    if engine == "openvino" and "BF16" not in openvino_engine._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO has no bfloat16 here")
    net = KINDS["conv"]()
    stream, frames = prernn.Stream(net, engine, "bfloat16"), torch.randn(6, 3, 8, 8)
    got = torch.stack([stream(frame) for frame in frames])
    with torch.no_grad():
        expected = net(frames[None])[0][0]
    assert got.dtype == torch.float32
    assert all(leaf.dtype == torch.float32 for leaf in stream.state_dict().values())
    assert 1e-6 < difference(got, expected) < 0.05


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_in_eight_bits(engine, tmp_path, monkeypatch):
    """torch: large weights alone, and follows the network; elsewhere a file in integers, kept beside that of floats."""
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path))
    torch.manual_seed(0)
    cnn = prernn.backbone("small_vgg", width=2, units=160, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", input="single", outputs=3).eval()
    frames = torch.randn(5, 3, 16, 16)
    stream = prernn.Stream(net, engine, "int8")
    with nullcontext() if engine == "torch" else pytest.warns(RuntimeWarning, match="it takes about a minute, once"):
        got = torch.stack([stream(frame) for frame in frames])
    with torch.no_grad():
        expected = net(frames[None])[0][0]
        assert 1e-6 < difference(got, expected) < (0.02 if engine == "torch" else 0.25)
        if engine == "torch":
            net.output_layer.bias.add_(5)
            assert (
                1e-6 < difference(torch.stack([*map(prernn.Stream(net, engine, "int8"), frames)]), expected + 5) < 0.02
            )
        else:
            assert [path.name for path in tmp_path.glob("*.onnx") if "int8" in path.name]
            assert difference(torch.stack([*map(prernn.Stream(net, engine), frames)]), expected) < 1e-4


def test_a_file_in_integers_says_so(tmp_path):
    net = KINDS["features"]()
    prernn.export(net, tmp_path / "a.onnx", precision="int8", inputs=torch.randn(2, 3, 7))
    prernn.export(net, tmp_path / "b.onnx")
    assert opened(tmp_path / "a.onnx").precision == "int8"
    assert opened(tmp_path / "a.onnx", "openvino", "int8").precision == "int8"
    assert opened(tmp_path / "b.onnx").precision == "float32"
    for name, precision in (("a", "float32"), ("b", "int8")):
        with pytest.raises(ValueError, match="which the file has"):
            opened(tmp_path / f"{name}.onnx", None, precision)


@pytest.mark.skipif(not has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_follows_the_network_too():
    net = KINDS["conv"]()
    stream, frame = prernn.Stream(net, precision="bfloat16"), torch.randn(3, 8, 8)
    before = stream(frame)
    assert stream.net is net
    with torch.no_grad():
        net.output_layer.bias.add_(5)
    stream.reset()
    torch.testing.assert_close(stream(frame), before + 5, rtol=1e-2, atol=0.05)
    assert stream._runs._ready._fused  # what is made anew within inference mode too
    other = KINDS["conv"]()
    with torch.inference_mode():
        assert TorchNetwork(other, "bfloat16")._ready._fused
    prernn.Stream(KINDS["words"](), precision="bfloat16")(torch.tensor([3]))


def test_streams_share_what_was_made_of_their_network():
    net = KINDS["conv"]().train()
    first, second = TorchNetwork(net), TorchNetwork(net)
    assert first._ready is second._ready
    assert any(part._norm[0] is not None for part in modules(first._ready.stepper.cnn, FusedConvolution))
    net.cnn.conv1.register_forward_hook(lambda *given: None)
    assert TorchNetwork(net)._ready is not first._ready
    assert list(first.state_dict()) == [f"source.{name}" for name in net.state_dict()]


def test_an_engine_keeps_the_network_as_it_was(monkeypatch, tmp_path):
    """Also where the export comes later, with the first frame of a size."""
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path))
    net, frame = KINDS["conv"](), torch.randn(3, 8, 8)
    with torch.no_grad():
        expected = net.step(frame[None])[0][0]
        stream = prernn.Stream(net, "onnxruntime")
        net.output_layer.weight.mul_(3)
        torch.testing.assert_close(stream(frame), expected, **CLOSE)
        torch.testing.assert_close(prernn.Stream(net, "onnxruntime")(frame), net.step(frame[None])[0][0], **CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
def test_networks_of_double_precision(engine, tmp_path):
    net = KINDS["conv"]().double()
    frame = torch.randn(3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = net.step(frame[None])[0][0]
    torch.testing.assert_close(prernn.Stream(net, engine)(frame).double(), expected, **CLOSE)
    assert prernn.Stream(net, "auto").engine in ENGINES
    export(net, tmp_path / "net.onnx", image_size=(8, 8))


def test_what_a_network_hears_and_keeps_is_known_in_every_engine():
    both = deep_speech(prernn.backbone("spectrogram", features=41, filters=4), hidden_size=8, num_layers=1).eval()
    fast = opened(both, "torch")
    assert (fast.sees_ahead, fast.wants_lengths) == (True, True)
    video = torch.rand(1, 6, 2, 41)
    with torch.no_grad():
        torch.testing.assert_close(fast(video)[0], both(video)[0])
    with pytest.raises(NotImplementedError, match="got both directions"):
        opened(both, "onnxruntime")
    assert opened(both, "auto").engine == "torch"
    for engine in ENGINES:
        assert not is_clip_network(opened(KINDS["snippets"](), engine))


# which engine


def test_auto_takes_the_fastest_that_agrees_and_remembers(monkeypatch):
    net = KINDS["conv"]()
    times = {"torch": 3.0, "onnxruntime": 1.0, "openvino": 2.0}
    asked = []

    def timed(candidate, frame):
        asked.append(candidate.engine)
        return times[candidate.engine]

    monkeypatch.setattr(choice, "_milliseconds", timed)
    assert prernn.Stream(net, "auto").engine == "onnxruntime"
    assert asked == list(ENGINES)
    assert prernn.Stream(net, "auto").engine == "onnxruntime"
    assert len(asked) == 3  # known by now
    wrong = onnxruntime_engine.runner
    monkeypatch.setattr(kept, "choices", dict)
    monkeypatch.setattr(
        onnxruntime_engine, "runner", lambda s: lambda *given: (wrong(s)(*given)[0] + 1, wrong(s)(*given)[1])
    )
    with pytest.warns(RuntimeWarning, match="onnxruntime is left out: its outputs differ by"):
        assert prernn.Stream(net, "auto").engine == "openvino"


def test_what_is_not_there_is_said(monkeypatch):
    net = KINDS["conv"]()
    with pytest.raises(ValueError, match="engine to be one of torch, onnxruntime, openvino, auto, got 'tensorrt'"):
        prernn.Stream(net, "tensorrt")
    with pytest.raises(ValueError, match="precision to be one of float32, bfloat16, float16, int8, got 'int4'"):
        prernn.Stream(net, precision="int4")
    with pytest.raises(NotImplementedError, match="onnxruntime: expected precision float32"):
        prernn.Stream(net, "onnxruntime", "bfloat16")
    with pytest.raises(NotImplementedError, match="float16 expects a GPU"):
        prernn.Stream(net, "torch", "float16")
    for module, extra in ((onnxruntime_engine, "onnx"), (openvino_engine, "openvino")):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=rf'not installed: pip install "prernn\[{extra}\]"'):
            prernn.Stream(net, module.NAME)
    inside = opened(net)
    with pytest.raises(ValueError, match="one that is already in torch in float32"):
        opened(inside, "openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prernn.Stream(net, "auto").engine == "torch"


def test_exports_are_kept_by_what_the_network_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path))
    net = KINDS["conv"]()
    frame = torch.randn(3, 8, 8)
    prernn.Stream(net, "onnxruntime")(frame)
    (first,) = tmp_path.glob("*.onnx")
    monkeypatch.setattr(opening, "save_onnx", lambda *args: pytest.fail("it is there already"))
    prernn.Stream(net, "openvino")(frame)
    monkeypatch.undo()
    monkeypatch.setenv("PRERNN_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "MOST", 1)
    with torch.no_grad():
        net.output_layer.bias.add_(1)
        expected = net.step(frame[None])[0][0]
    torch.testing.assert_close(prernn.Stream(net, "onnxruntime")(frame), expected, **CLOSE)
    assert [path for path in tmp_path.glob("*.onnx") if path == first] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_videos_of_several_lengths(engine):
    net = KINDS["several layers"]()
    video, lengths = some_frames(net, 3, 5, size_of("several layers")), torch.tensor([5, 2, 3])
    with torch.no_grad():
        expected, last = net(video, lengths=lengths)
        out, state = opened(net, engine)(video, lengths=lengths)
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(state, last, **CLOSE)
