"""Files of weights: which fit, what is left out, which are refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prernn.models import checkpoint, weight_files
from prernn.models.backbones import backbone
from prernn.models.from_config import NetworkSpec
from prernn.models.weight_files import first_convolution, load_weights
from small_backbones import small_network

SMALL = "timm/mobilenetv3_small_050"


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_load_from_wrapped_and_prefixed_files(tmp_path, wrap, prefix):
    source, target = small_network(), small_network()
    torch.save(wrap({prefix + k: v for k, v in source.state_dict().items()}), tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth") is target
    for key, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[key], value)


def test_weights_load_from_safetensors_and_without_batch_counters(tmp_path):
    source, target = small_network(), small_network()
    save_file({k: v for k, v in source.state_dict().items() if "num_batches" not in k}, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    torch.testing.assert_close(target[3].weight, source[3].weight)


def test_a_file_of_weights_fits_a_backbone_by_name(tmp_path):
    source = backbone("squeezenet1_1")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    target = backbone("squeezenet1_1", weights=tmp_path / "w.pt", device="cpu")
    torch.testing.assert_close(target.classifier[1].weight, source.classifier[1].weight)


def test_misfits_are_named_in_one_line(tmp_path):
    state = small_network().state_dict()
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    state["extra"] = state.pop("3.bias")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(small_network(), tmp_path / "w.pth")
    message = str(error.value)
    assert "\n" not in message
    assert "missing: 3.bias" in message
    assert "unexpected: extra" in message
    assert "0.weight (expected (4, 3, 3, 3), got (4, 3, 5, 5))" in message


def test_long_lists_of_misfits_are_cut(tmp_path):
    torch.save({f"other{i}": torch.zeros(1) for i in range(9)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"unexpected: other0, other1, other2 and 6 more"):
        load_weights(small_network(), tmp_path / "w.pth")


class Intruder:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_run_code_are_refused_and_not_run(tmp_path):
    torch.save({"weight": Intruder(tmp_path / "hacked")}, tmp_path / "w.pth")
    (tmp_path / "w.pickle").write_bytes(pickle.dumps(Intruder(tmp_path / "hacked"), protocol=2))
    for name in ("w.pth", "w.pickle"):
        with pytest.raises(ValueError, match="no file of plain weights") as error:
            load_weights(small_network(), tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"weight": torch.zeros(1), "lr": 0.1}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected a state dict"):
        load_weights(small_network(), tmp_path / "w.pth")


def test_missing_and_broken_files_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_weights(small_network(), tmp_path / "nowhere.pth")
    (tmp_path / "w.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="no file of plain weights"):
        load_weights(small_network(), tmp_path / "w.safetensors")


def test_contradictory_wishes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not both"):
        backbone("resnet18", pretrained=True, weights=tmp_path / "w.pth")
    with pytest.raises(ValueError, match="meta"):
        backbone("resnet18", pretrained=True, device="meta")
    with pytest.raises(ValueError, match="c3d"):
        backbone("c3d", pretrained=True)


def quick(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def test_weights_of_a_network_of_these_channels_load_as_they_are(tmp_path):
    source = backbone("squeezenet1_1", channels=4)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    target = backbone("squeezenet1_1", weights=tmp_path / "w.pt", channels=4)
    assert torch.equal(first_convolution(target).weight, first_convolution(source).weight)
    with pytest.raises(ValueError, match=r"features.0.weight \(expected \(64, 3, 3, 3\), got \(64, 4, 3, 3\)\)"):
        backbone("squeezenet1_1", weights=tmp_path / "w.pt")


def test_weights_for_blue_green_red_are_turned_round(tmp_path):
    source = quick(backbone("squeezenet1_1"))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    target = quick(backbone("squeezenet1_1", weights=tmp_path / "w.pt", bgr=True))
    picture = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(target(picture), source(picture.flip(1)))
    assert not torch.allclose(target(picture), source(picture))


def test_another_output_layer_is_left_out_where_it_is_replaced_anyway(tmp_path, recwarn):
    source = backbone(SMALL, num_classes=7)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    target = backbone(SMALL, weights=tmp_path / "w.pt", new_output=True)
    assert not recwarn.list  # nothing is missing
    for key, value in source.state_dict().items():
        if not key.startswith("classifier."):
            assert torch.equal(target.state_dict()[key], value)
    with pytest.raises(ValueError, match=r"does not fit the network: of another shape: classifier.weight"):
        backbone(SMALL, weights=tmp_path / "w.pt")


def test_a_file_without_output_layer_loads_where_it_is_replaced_anyway(tmp_path):
    state = small_network().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("3.")}, tmp_path / "w.pt")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.append(nn.Linear(4, 2))
    own = network[3].weight.clone()
    load_weights(network, tmp_path / "w.pt", new_output=True)
    assert torch.equal(network[0].weight, state["0.weight"])
    assert torch.equal(network[3].weight, own)
    with pytest.raises(ValueError, match=r"missing: 3.weight, 3.bias"):
        load_weights(network, tmp_path / "w.pt")


def test_another_layer_of_another_shape_is_refused_though_the_output_is_replaced(tmp_path):
    torch.save(backbone("squeezenet1_0", num_classes=7).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="does not fit the network"):
        backbone("squeezenet1_1", weights=tmp_path / "w.pt", new_output=True)


def test_the_published_files_have_the_names_that_the_networks_have():
    """torchvision's vgg16-397923af.pth and resnet50-11ad3fa6.pth, and c3d.pickle."""
    vgg = [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    vgg += [f"classifier.{i}" for i in (0, 3, 6)]
    assert {key.rpartition(".")[0] for key in backbone("vgg16", device="meta").state_dict()} == set(vgg)
    resnet = backbone("resnet50", device="meta").state_dict()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight"} < set(resnet)
    assert len([key for key in resnet if not key.endswith("num_batches_tracked")]) == 267
    c3d = backbone("c3d", device="meta").state_dict()
    assert {key: tuple(c3d[key].shape) for key in ("conv1.weight", "conv5b.bias", "fc6.weight", "fc8.weight")} == {
        "conv1.weight": (64, 3, 3, 3, 3),
        "conv5b.bias": (512,),
        "fc6.weight": (4096, 8192),
        "fc8.weight": (487, 4096),
    }


C3D_LAYERS = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7"]


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (C3D_LAYERS, "fc8"),
        ([f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)] + ["classifier.0", "classifier.3"], None),
        ([f"conv{i}.conv" for i in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")] + ["fc6", "fc7"], None),
        (
            [f"backbone.conv{i}.conv" for i in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")]
            + ["backbone.fc6", "backbone.fc7"],
            "cls_head.fc_cls",
        ),
    ],
)
def test_c3d_files_of_other_projects_are_renamed(names, head):
    own = backbone("c3d", device="meta").state_dict()
    theirs = dict(zip([*C3D_LAYERS, "fc8"], [*names, head], strict=True))
    state = {
        f"{theirs[layer]}.{leaf}": own[f"{layer}.{leaf}"]
        for layer in reversed(theirs)
        for leaf in ("bias", "weight")
        if theirs[layer]
    }
    renamed = weight_files._named_as(own, state)
    assert set(own) - set(renamed) == (set() if head else {"fc8.weight", "fc8.bias"})
    assert all(renamed[key] is own[key] for key in renamed)


@pytest.mark.parametrize("name", [SMALL, "squeezenet1_1"])  # the second ends in pooling: its output layer is new
def test_a_frame_wise_run_gives_the_weights_of_its_trunk(tmp_path, name, recwarn):
    source = NetworkSpec(backbone=name, method="framewise").build(5)
    checkpoint.save(source, tmp_path)
    theirs = source.state_dict()
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        recipe = NetworkSpec(
            backbone=name, weights=str(weights), method="traditional", hidden_size=8, hidden="diagonal"
        )
        own = recipe.build(3).state_dict()
        assert not recwarn.list  # the output layer is another one anyway
        shared = [key for key in theirs if not key.startswith(("cnn.classifier.", "cnn.output_0."))]
        assert len(shared) > 40
        assert all(torch.equal(own[key], theirs[key]) for key in shared)


def test_a_lightning_checkpoint_of_a_frame_wise_network_gives_them_too(tmp_path):
    source = NetworkSpec(backbone=SMALL, method="framewise").build(5).state_dict()
    torch.save({"state_dict": {f"network.{k}": v for k, v in source.items()}, "epoch": 3}, tmp_path / "last.ckpt")
    model = backbone(SMALL, num_classes=5, weights=tmp_path / "last.ckpt")
    assert torch.equal(model.classifier.weight, source["cnn.classifier.weight"])


def test_weights_of_a_recurrent_network_are_refused(tmp_path):
    net = NetworkSpec(backbone="squeezenet1_1", method="traditional", hidden_size=8, hidden="diagonal").build(3)
    checkpoint.save(net, tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors: expected weights of a CNN .* got a recurrent network's"):
        NetworkSpec(backbone="squeezenet1_1", weights=str(tmp_path)).build(3)


def test_a_folder_without_a_network_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of weights at .*, nor a run folder with"):
        backbone("squeezenet1_1", weights=tmp_path)
