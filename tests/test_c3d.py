import pytest
import torch
from torch import fx, nn

from prernn.c3d import C3D, swap_red_blue

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


@pytest.mark.parametrize(("options", "got"), [({"frames": 7}, "7"), ({"classes": 0}, "0")])
def test_impossible_sizes_are_refused(options, got):
    with pytest.raises(ValueError, match=got):
        C3D(**options)
