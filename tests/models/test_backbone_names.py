"""A network made of a backbone with a name can be kept, loaded and streamed without more being said."""

import numpy as np
import pytest
import torch

import prernn
from prernn.commands.main import main
from prernn.media.encoding import write_video
from prernn.models.backbones import input_spec

MAKERS = {
    "convert": lambda cnn: prernn.convert(cnn, outputs=3),
    "traditional": lambda cnn: prernn.traditional(cnn, hidden_size=4),
    "framewise": prernn.framewise,
    "rcn": prernn.convert_rcn,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_streamed_from_its_file(make, tmp_path, capsys):
    net = make(prernn.backbone("timm/test_resnet").eval())
    path = prernn.save(net, tmp_path)
    video = tmp_path / "clip.mp4"
    write_video(video, [np.full((40, 40, 3), 20 * i, np.uint8) for i in range(4)], 5)
    assert main(["stream", str(video), "--checkpoint", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    again = prernn.load(path)
    stream = prernn.Stream(again)
    spec = input_spec("timm/test_resnet")
    assert again.recipe.transform["size"] == spec["size"]
    assert stream(np.zeros((40, 40, 3), np.uint8)).shape == (again.output_layer.out_features,)
    frames = torch.rand(1, 2, 3, spec["size"], spec["size"])
    torch.testing.assert_close(again(frames)[0], net(frames)[0], rtol=1e-4, atol=1e-5)


def test_options_and_channels_are_part_of_the_name(tmp_path):
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=16, channels=4)
    net = prernn.convert(cnn.eval(), "fc6")
    assert net.recipe.backbone_options == {"width": 2, "units": 16, "size": 16}
    again = prernn.load(prernn.save(net, tmp_path))
    assert again.frame_shape == (4, 16, 16)
    assert again.recipe.transform is None  # nothing is known of four channels


def test_options_that_no_file_can_hold_leave_it_without_a_name(tmp_path):
    cnn = prernn.backbone("resnet18", norm_layer=torch.nn.Identity)
    net = prernn.framewise(cnn)
    assert net.recipe.backbone is None
    with pytest.raises(ValueError, match="a CNN of your own"):
        prernn.load(prernn.save(net, tmp_path))


def test_a_file_of_weights_takes_the_place_of_the_librarys(tmp_path, capsys):
    from prernn.models.from_config import NetworkSpec

    net = prernn.framewise(prernn.backbone("timm/test_resnet"))
    path = prernn.save(net, tmp_path)
    built = NetworkSpec("timm/test_resnet", pretrained=True, weights=str(path), method="framewise").build()
    weights = net.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in built.state_dict().items())


def test_files_are_for_everybody_that_the_system_lets_read(tmp_path):
    path = prernn.save(prernn.framewise(prernn.backbone("timm/test_resnet")), tmp_path)
    other = tmp_path / "other"
    other.write_text("made by Python")
    assert path.stat().st_mode == other.stat().st_mode
