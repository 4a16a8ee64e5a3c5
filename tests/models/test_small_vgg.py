"""The small VGG: shapes, and that it converts as VGG16 does."""

import pytest
import torch

import prernn
from prernn.models.backbones import backbone, input_spec
from prernn.models.networks.small_vgg import SmallVGG


@pytest.mark.parametrize("size", [16, 64])
def test_shapes(size):
    net = SmallVGG(5, width=4, units=6, size=size)
    assert net(torch.randn(2, 3, size, size)).shape == (2, 5)
    assert net.fc6.in_features == 32 * (size // 16) ** 2


@pytest.mark.parametrize("layer", ["fc6", "fc7", ["fc6", "fc7"]])
def test_its_fc_layers_become_recurrent(layer):
    cnn = backbone("small_vgg", width=4, units=6, size=32).eval()
    net = prernn.convert(cnn, layer, cell="vrnn", outputs=3)
    video = torch.randn(1, 2, 3, 32, 32)
    assert net(video)[0].shape == (1, 2, 3)
    assert [each.hidden_size for each in net.recurrent_layers] == [6] * (1 if isinstance(layer, str) else 2)
    assert input_spec(cnn)["size"] == 32


def test_numbers_that_make_no_sense():
    with pytest.raises(ValueError, match="expected size a multiple of 16, got 40"):
        SmallVGG(size=40)
    with pytest.raises(ValueError, match="from 1 on"):
        SmallVGG(0)
    with pytest.raises(ValueError, match="small_vgg has no weights"):
        backbone("small_vgg", pretrained=True)


def test_its_frame_wise_run_is_a_file_of_weights(tmp_path):
    cnn = backbone("small_vgg", width=4, units=6, size=32)
    prernn.save(prernn.framewise(cnn, outputs=3), tmp_path)
    again = backbone("small_vgg", weights=tmp_path, new_output=True, width=4, units=6, size=32)
    assert torch.equal(again.features[0].weight, cnn.features[0].weight)
    assert torch.equal(again.fc7.weight, cnn.fc7.weight)
