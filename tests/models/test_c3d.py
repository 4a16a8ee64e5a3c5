import pytest
import torch
from torch import fx, nn

import prernn
from prernn.models.backbones import backbone, input_spec
from prernn.models.networks.c3d import C3D, swap_red_blue

LAYERS = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7", "fc8"]


def on_meta(**options) -> C3D:
    """The network without its 80 million numbers: shapes only."""
    with torch.device("meta"):
        return C3D(**options)


def snippet(frames: int) -> torch.Tensor:
    return torch.empty(2, 3, frames, 112, 112, device="meta")


@pytest.mark.parametrize("frames", [8, 9, 15, 16, 20, 32])
def test_scores_of_a_snippet_have_one_row_each(frames):
    assert on_meta(frames=frames)(snippet(frames)).shape == (2, 487)


@pytest.mark.parametrize("frames", [8, 16])
def test_fc6_reads_8192_numbers_for_every_snippet_length(frames):
    seen = {}
    model = on_meta(frames=frames, classes=25)
    model.pool4.register_forward_hook(lambda m, i, o: seen.update(pool4=o.shape))
    model.pool5.register_forward_hook(lambda m, i, o: seen.update(pool5=o.shape))
    assert model(snippet(frames)).shape == (2, 25)
    assert seen == {"pool4": (2, 512, frames // 8, 7, 7), "pool5": (2, 512, 1, 4, 4)}
    assert model.fc6.in_features == 8192


def test_state_dict_has_the_published_names_and_shapes():
    state = on_meta().state_dict()
    assert list(state) == [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    assert [state[f"{layer}.weight"].shape[0] for layer in LAYERS[:8]] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert all(state[f"{layer}.weight"].shape[2:] == (3, 3, 3) for layer in LAYERS[:8])
    assert [tuple(state[f"{layer}.weight"].shape) for layer in LAYERS[8:]] == [(4096, 8192), (4096, 4096), (487, 4096)]


def test_weights_are_the_same_for_8_and_16_frames():
    def shapes(frames):
        return {key: value.shape for key, value in on_meta(frames=frames).state_dict().items()}

    assert shapes(8) == shapes(16)


def test_fx_traces_it_into_a_module_that_gives_the_same_shape():
    traced = fx.symbolic_trace(on_meta())
    assert traced(snippet(16)).shape == (2, 487)
    assert {"conv5b", "pool5", "fc6", "fc7", "fc8"} <= {str(node.target) for node in traced.graph.nodes}


def test_only_8_frames_keep_pool5_from_pooling_time():
    assert isinstance(on_meta(frames=8).pool5, nn.MaxPool3d)
    assert on_meta(frames=8).pool5.kernel_size == (1, 2, 2)
    assert on_meta(frames=16).pool5.kernel_size == (2, 2, 2)


def test_swapping_red_and_blue_of_weights_and_picture_cancels_out():
    # One convolution says it all, so the fully connected layers stay without memory.
    model = on_meta()
    model.conv1 = nn.Conv3d(3, 64, 3, padding=1)
    x = torch.rand(1, 3, 2, 8, 8)
    before = model.conv1(x)
    assert swap_red_blue(model) is model
    torch.testing.assert_close(model.conv1(x.flip(1)), before)
    assert not torch.allclose(model.conv1(x), before)


@pytest.mark.parametrize("size", [16, 31, 32, 47, 48, 64, 111, 112, 113, 171])
def test_fc6_fits_every_size_of_picture(size):
    model = on_meta(size=size, frames=8, width=2, units=6, classes=3)
    assert model(torch.empty(2, 3, 8, size, size, device="meta")).shape == (2, 3)
    with pytest.raises(RuntimeError):
        model(torch.empty(2, 3, 8, size + 32, size + 32, device="meta"))


def test_a_narrow_network_keeps_the_published_proportions():
    shapes = {key: tuple(value.shape) for key, value in on_meta(width=8, units=40, size=64).state_dict().items()}
    assert [shapes[f"{layer}.weight"][0] for layer in LAYERS[:8]] == [8, 16, 32, 32, 64, 64, 64, 64]
    assert [shapes[f"{layer}.weight"] for layer in LAYERS[8:]] == [(40, 64 * 3 * 3), (40, 40), (487, 40)]


def test_a_small_network_says_its_size_and_can_be_converted():
    model = backbone("c3d", width=2, units=12, size=32, frames=8, classes=5)
    assert input_spec(model)["size"] == 32
    net = prernn.convert(model, ["fc6", "fc7"], cell="gru", image_size=(8, 32, 32))
    assert net(torch.randn(2, 3, 3, 8, 32, 32))[0].shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"frames": 7}, "7"),
        ({"classes": 0}, "0"),
        ({"size": 15}, "size 16, got 15"),
        ({"width": 0}, "width: .* got 0"),
        ({"units": 0}, "units: .* got 0"),
    ],
)
def test_impossible_sizes_are_refused(options, got):
    with pytest.raises(ValueError, match=got):
        C3D(**options)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_small_one_becomes_recurrent(batch_norm):
    cnn = C3D(5, frames=8, size=48, width=2, units=6, batch_norm=batch_norm)
    assert sum(isinstance(module, torch.nn.BatchNorm3d) for module in cnn.modules()) == 8 * batch_norm
    net = prernn.convert(cnn, "fc6", outputs=3)
    assert net.frame_shape == (3, 8, 48, 48)
    assert net(torch.randn(1, 2, 3, 8, 48, 48))[0].shape == (1, 2, 3)
