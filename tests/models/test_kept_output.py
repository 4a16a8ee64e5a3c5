"""An output layer whose weights were trained for the task's outputs stays."""

import pytest
import torch

import prernn
from prernn.models.from_config import NetworkSpec
from prernn.models.from_recipe import rebuild

SMALL = {"width": 2, "units": 16, "size": 16, "classes": 6}


@pytest.fixture
def weights(tmp_path):
    cnn = prernn.backbone("small_vgg", **SMALL).eval()
    torch.save(cnn.state_dict(), tmp_path / "weights.pth")
    return cnn, str(tmp_path / "weights.pth")


def spec(weights, **more):
    return NetworkSpec("small_vgg", weights=weights, backbone_options=SMALL, keep_output=True, calibrate=False, **more)


@torch.no_grad()
@pytest.mark.parametrize("method", ["prernn", "framewise"])
def test_the_network_begins_as_the_cnn(weights, method):
    cnn, path = weights
    net = spec(path, method=method, layer="fc6" if method == "prernn" else None, cell="vrnn").build(6).eval()
    for layer in net.recurrent_layers:
        layer.hidden_to_hidden.weight.zero_()
    video = torch.randn(2, 3, 3, 16, 16)
    torch.testing.assert_close(net(video)[0], cnn(video.flatten(0, 1)).unflatten(0, (2, 3)), rtol=1e-4, atol=1e-5)
    head = cnn.fc8.weight
    new = {id(parameter) for parameter in net.new_parameters()}
    assert not [p for p in net.parameters() if p.shape == head.shape and id(p) in new]
    assert rebuild(net.recipe).state_dict().keys() == net.state_dict().keys()


def test_without_it_the_layer_is_drawn_anew(weights):
    _, path = weights
    drawn = NetworkSpec("small_vgg", weights=path, backbone_options=SMALL, layer="fc6").build(6)
    assert len(drawn.new_parameters()) == len(spec(path, layer="fc6").build(6).new_parameters()) + 2


def test_another_number_of_outputs(weights):
    with pytest.raises(ValueError, match="recipe keep_output: expected a CNN with 7 outputs, got 6"):
        spec(weights[1], layer="fc6").build(7)
