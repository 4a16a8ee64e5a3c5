"""Streams: stepping, state in and out, frames of every form, snippets."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import prernn
from equations import close
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.streaming.stream import Stream
from streamed_networks import FLOAT32, NETWORKS, SPEC, network, pictures


def test_stream_equals_sequence(net):
    frames, stream = torch.randn(6, 3, 8, 8), Stream(net)
    out = torch.stack([stream(frame) for frame in frames])
    close(out, net(frames[None])[0][0].detach(), **FLOAT32)
    assert not out.requires_grad


def test_reset_starts_anew(net):
    frames, stream = torch.randn(3, 3, 8, 8), Stream(net)
    first = [stream(frame) for frame in frames]
    stream.reset()
    close([stream(frame) for frame in frames], first, **FLOAT32)


def test_probabilities_are_softmax():
    net, frame = network(), torch.randn(3, 8, 8)
    close(Stream(net).probabilities(frame), Stream(net)(frame).softmax(0), **FLOAT32)
    assert Stream(net).probabilities(frame).sum().item() == pytest.approx(1)


def test_uint8_frame_goes_through_the_recipes_transform():
    net, (picture, *_) = network(), pictures(1)
    by_hand = frame_transform(TransformSpec.from_dict(SPEC))(picture)
    expected = net.step(by_hand[None])[0][0].detach()
    read_only = picture.copy()
    read_only.setflags(write=False)
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    for frame in (picture, torch.from_numpy(picture), read_only, bgr[:, :, ::-1], by_hand, by_hand.double().numpy()):
        close(Stream(net)(frame), expected, **FLOAT32)


def test_transform_argument_goes_before_the_recipe():
    net, (picture, *_) = network(), pictures(1)
    spec = {**SPEC, "mean": [0, 0, 0]}
    expected = Stream(net)(frame_transform(TransformSpec.from_dict(spec))(picture))
    for transform in (spec, TransformSpec.from_dict(spec), frame_transform(TransformSpec.from_dict(spec))):
        close(Stream(net, transform=transform)(picture), expected, **FLOAT32)


def test_dtype_follows_the_network():
    net = network().double()
    out = Stream(net)(torch.randn(3, 8, 8))
    assert out.dtype == torch.float64
    assert Stream(net).probabilities(pictures(1)[0]).dtype == torch.float32


def test_streams_that_share_a_network_are_independent(net):
    a, b = torch.randn(2, 5, 3, 8, 8)
    one, other = Stream(net), Stream(net)
    mixed = [(one(x), other(y)) for x, y in zip(a, b, strict=True)]
    for frames, outputs in zip((a, b), zip(*mixed, strict=True), strict=True):
        alone = Stream(net)
        close(list(outputs), [alone(frame) for frame in frames], **FLOAT32)


def test_streams_side_by_side_equal_single_ones():
    net, frames = network("lstm"), pictures(6)
    both, one, other = Stream(net, batch_size=2), Stream(net), Stream(net)
    for a, b in zip(frames[:3], frames[3:], strict=True):
        close(both(np.stack([a, b])), torch.stack([one(a), other(b)]), **FLOAT32)
    close(both(torch.ones(2, 3, 8, 8))[1], other(torch.ones(3, 8, 8)), **FLOAT32)


def test_network_keeps_its_mode():
    net = network()
    expected = Stream(net)(torch.ones(3, 8, 8))
    net.train()
    modes = [module.training for module in net.modules()]
    statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
    close(Stream(net)(torch.ones(3, 8, 8)), expected, **FLOAT32)
    with pytest.raises(ValueError, match="expected a frame"):
        Stream(net)(torch.ones(8, 8))
    assert [module.training for module in net.modules()] == modes
    assert any(modes)  # frozen batch normalization stays in evaluation mode, the rest trains
    assert not all(modes)
    close(dict(net.named_buffers()), statistics)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(8, 8), r"float \(3, H, W\), got torch.float32 \(8, 8\)"),
        (torch.zeros(1, 8, 8), r"got torch.float32 \(1, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8), r"got torch.float32 \(1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "got torch.int64"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 \(H, W, 3\), got torch.uint8 \(3, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(H, W, 3\)"),
        ([1, 2], "array or tensor, got list"),
    ],
)
def test_wrong_frames(frame, message):
    with pytest.raises(ValueError, match=message):
        Stream(network())(frame)


def test_wrong_arguments():
    net = network()
    with pytest.raises(ValueError, match="at least 1 stream, got 0"):
        Stream(net, batch_size=0)
    with pytest.raises(ValueError, match=r"frames of 2 streams, got shape \(3, 8, 8\)"):
        Stream(net, batch_size=2)(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="unknown"):
        Stream(net, transform={"unknown": 1})
    net.recipe.transform = None
    with pytest.raises(ValueError, match="no transform for it; pass transform="):
        Stream(net)(pictures(1)[0])


def test_saved_stream_goes_on(net, tmp_path):
    frames, stream = torch.randn(6, 3, 8, 8), Stream(net)
    for frame in frames[:3]:
        stream(frame)
    save_file(stream.state_dict(), tmp_path / "state.safetensors")
    expected = [stream(frame) for frame in frames[3:]]
    other = Stream(net)
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    close([other(frame) for frame in frames[3:]], expected, rtol=0, atol=0)


def test_state_is_named_by_layer_and_tensor_and_empty_before_a_frame():
    stream = Stream(NETWORKS["two layers"](), batch_size=2)
    assert stream.state_dict() == {}
    stream(torch.randn(2, 3, 8, 8))
    shapes = {name: tuple(value.shape) for name, value in stream.state_dict().items()}
    assert shapes == dict.fromkeys(["state_0_h", "state_0_c", "state_1_h", "state_1_c"], (2, 12))
    stream.load_state_dict({})
    assert stream.state_dict() == {}


def test_state_dict_is_a_copy():
    stream, frame = Stream(network()), torch.randn(3, 8, 8)
    stream(frame)
    saved = stream.state_dict()
    stream.load_state_dict(saved)
    expected = stream(frame)
    stream.load_state_dict(saved)
    saved["state_0_h"].zero_()
    close(stream(frame), expected, rtol=0, atol=0)


def test_state_of_another_network_is_refused():
    stream = Stream(network("lstm"))
    stream(torch.randn(3, 8, 8))
    before = stream.state_dict()
    wrong = {
        r"expected the state \['state_0_h', 'state_0_c'\], got \['state_0_h'\]": {"state_0_h": torch.zeros(1, 12)},
        r"state_0_c of shape \(1, 12\), got \(1, 13\)": {
            "state_0_h": torch.zeros(1, 12),
            "state_0_c": torch.ones(1, 13),
        },
        r"state_0_h of shape \(1, 12\), got \(2, 12\)": {
            "state_0_h": torch.zeros(2, 12),
            "state_0_c": torch.ones(2, 12),
        },
        "pending frames": {**before, "pending": torch.zeros(1, 3, 2, 8, 8)},
    }
    for message, values in wrong.items():
        with pytest.raises(ValueError, match=message):
            stream.load_state_dict(values)
        close(stream.state_dict(), before)


def test_snippets_collect_frames(snippet_net):
    frames, stream = pictures(9), Stream(snippet_net)
    outputs = [stream(frame) for frame in frames]
    assert [out is not None for out in outputs] == [False, False, False, True] * 2 + [False]
    clip = torch.stack([frame_transform(TransformSpec.from_dict(SPEC))(frame) for frame in frames[:8]], dim=1)
    expected = snippet_net(torch.stack(clip.split(4, dim=1))[None])[0][0].detach()
    close(torch.stack([outputs[3], outputs[7]]), expected, **FLOAT32)
    other = Stream(snippet_net)
    close(torch.stack([other(part) for part in clip.split(4, dim=1)]), expected, **FLOAT32)


def test_snippets_are_saved_half_full(snippet_net):
    frames, stream, other = pictures(8), Stream(snippet_net), Stream(snippet_net)
    for count, frame in enumerate(frames):
        if count in (2, 6):
            other.load_state_dict(stream.state_dict())
        if count in (4,):
            other.reset()
        out = stream(frame)
    assert stream.state_dict().keys() == {"state_0_h"}
    for frame in frames[6:]:
        last = other(frame)
    close(last, out, rtol=0, atol=0)


def test_wrong_snippets(snippet_net):
    stream = Stream(snippet_net, transform=lambda frame: frame.permute(2, 0, 1).float())
    stream(pictures(1)[0])
    with pytest.raises(ValueError, match=r"expected frames \(1, 3, 20, 24\) as before in this snippet"):
        stream(pictures(1, (10, 10))[0])
    with pytest.raises(ValueError, match=r"float \(3, D, H, W\), got torch.float32 \(3, 8, 8\)"):
        stream(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="less than 4 of them"):
        stream.load_state_dict({"pending": torch.zeros(1, 3, 4, 8, 8)})


def test_import_stays_light():
    imports = "import sys, prernn.streaming.stream, prernn.engines.exported.export; "
    code = imports + "print([m for m in ('av', 'onnx', 'PIL') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("make", [prernn.Stream, prernn.StreamBatch])
def test_a_layer_alone_is_no_stream(make):
    with pytest.raises(ValueError, match=r"expected a network of prernn, or the path of a run.* got LSTM"):
        make(prernn.LSTM(3, 4))
