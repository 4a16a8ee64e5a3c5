"""The network of 68 points, and weights in TensorFlow.js' form: against the equations written out, and bad files."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prernn.conversion.convert import convert
from prernn.models.backbones import backbone, input_spec
from prernn.models.networks.face_landmarks import CHANNELS, FaceLandmarks
from prernn.models.tfjs_weights import read_tfjs


def shapes():
    """Names and shapes of the published manifest."""
    for block, channels in enumerate(CHANNELS):
        inputs = CHANNELS[max(block - 1, 0)]
        for conv in range(4):
            place = f"dense{block}/conv{conv}"
            if block == conv == 0:
                yield f"{place}/filters", (3, 3, 3, channels)
            else:
                yield f"{place}/depthwise_filter", (3, 3, inputs if conv == 0 else channels, 1)
                yield f"{place}/pointwise_filter", (1, 1, inputs if conv == 0 else channels, channels)
            yield f"{place}/bias", (channels,)
    yield from (("fc/weights", (256, 136)), ("fc/bias", (136,)))


def write_manifest(folder, entries=None, cut=0):
    """Quantized weights drawn at random, their manifest and what they stand for."""
    chance, raw, listed, values = np.random.default_rng(0), b"", [], {}
    for name, shape in entries or shapes():
        counts = chance.integers(0, 256, shape, dtype=np.uint8)
        fan = max(1, int(np.prod(shape[:-1])))
        scale, least = 0.02 / fan**0.5, -2.0 / fan**0.5
        listed.append({"name": name, "shape": list(shape), "dtype": "float32"})
        listed[-1]["quantization"] = {"dtype": "uint8", "scale": scale, "min": least}
        raw += counts.tobytes()
        values[name] = torch.from_numpy((counts * scale + least).astype(np.float32))
    (folder / "weights.bin").write_bytes(raw[: len(raw) - cut])
    path = folder / "weights_manifest.json"
    path.write_text(json.dumps([{"paths": ["weights.bin"], "weights": listed}]))
    return path, values


def written_out(x, values):
    """The network in plain functions over TensorFlow.js' tensors; the picture's points from its corner."""

    def pad(x, stride):
        missing = max((-(-x.shape[-1] // stride) - 1) * stride + 3 - x.shape[-1], 0)
        return F.pad(x, (missing // 2, missing - missing // 2) * 2)

    def conv(x, place, stride):
        bias = values[f"{place}/bias"]
        if f"{place}/filters" in values:
            return F.conv2d(pad(x, stride), values[f"{place}/filters"].permute(3, 2, 0, 1), bias, stride)
        each = values[f"{place}/depthwise_filter"].permute(2, 3, 0, 1)
        x = F.conv2d(pad(x, stride), each, None, stride, groups=x.shape[1])
        return F.conv2d(x, values[f"{place}/pointwise_filter"].permute(3, 2, 0, 1), bias)

    for block in range(4):
        seen = [F.relu(conv(x, f"dense{block}/conv0", 2))]
        for number in (1, 2, 3):
            seen.append(conv(seen[0] if number == 1 else F.relu(sum(seen)), f"dense{block}/conv{number}", 1))
        x = F.relu(sum(seen))
    return x.mean((2, 3)) @ values["fc/weights"] + values["fc/bias"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("weights"))


def test_the_manifest_gives_the_published_network_with_points_from_the_middle(manifest):
    path, values = manifest
    net = backbone("face_landmarks", weights=path).eval()
    picture = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        wanted, found = written_out(picture, values) - 0.5, net(picture)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read_tfjs(path)["fc/bias"], values["fc/bias"])


def test_its_extra_layer_changes_nothing_and_becomes_recurrent(manifest):
    path, _ = manifest
    net = convert(backbone("face_landmarks", weights=path), cell="vrnn", layer="fc6").eval()
    for layer in net.recurrent_layers:
        torch.nn.init.zeros_(layer.hidden_to_hidden.weight)
    cnn, frames = backbone("face_landmarks", weights=path).eval(), torch.rand(1, 3, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(net(frames)[0][0], cnn(frames[0]), atol=1e-4, rtol=1e-4)


def test_what_it_expects():
    assert input_spec("face_landmarks")["size"] == 112
    assert FaceLandmarks(10, size=32)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(ValueError, match="multiple of 16"):
        FaceLandmarks(size=100)


@pytest.mark.parametrize(
    "content", ["no json", "{}", "[1]", '[{"paths": ["weights.bin"], "weights": [{"name": "a"}]}]']
)
def test_files_that_are_no_manifest(content, tmp_path):
    write_manifest(tmp_path, [("fc/bias", (4,))])
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        backbone("face_landmarks", weights=tmp_path / "bad.json")


def test_bytes_that_are_too_few_or_of_another_network(tmp_path):
    path, _ = write_manifest(tmp_path, [("fc/bias", (4,))], cut=1)
    with pytest.raises(ValueError, match="expected 4 bytes of weights, got 3"):
        read_tfjs(path)
    path, _ = write_manifest(tmp_path, [("fc/bias", (4,))])
    with pytest.raises(ValueError, match="does not fit the network"):
        backbone("face_landmarks", weights=path)
