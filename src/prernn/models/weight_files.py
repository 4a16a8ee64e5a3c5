"""Files of weights for backbones: torch, safetensors, run folders, other channels and outputs."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.graph.ending import find_output_layer
from prernn.conversion.network import open_network
from prernn.models.tfjs_weights import face_landmarks_state


def load_weights(model: nn.Module, path: str | Path, *, new_output: bool = False) -> nn.Module:
    """Loads a file of weights into a network, in place; returns the network.

    The file is a state dict: ``.safetensors``, or written by ``torch.save`` and read without running any code in it. It
    may be wrapped in a dict under ``state_dict`` or ``model``, and its keys may all start with the same prefix
    (``module.``, ``backbone.``), as after training on several devices or in a larger network. It can also be a run
    folder, ``model.safetensors`` or checkpoint of a frame-wise network of prernn, a C3D file of another project, which
    names the layers differently, or the manifest of face-api's 68 points (``.json``).

    Args:
        model: the network.
        path: the file, or a run folder of prernn.
        new_output: the network's output layer is about to be replaced: if the file's has another size, or there is
            none, it is not loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file contains no state dict, or its keys or shapes are not those of the network.
    """
    return load_into(model, path, new_output, None)


def adapt_channels(cnn: nn.Module, channels: int) -> nn.Module:
    """Gives the first convolution of a CNN ``channels`` inputs, in place; returns the network.

    Its filters become the mean over the colors, repeated for each channel (as in two-stream networks, and PreRNN's flow
    stream). For C equal channels, the convolution (without bias) then gives ``max(1, C/3)`` times its response to a
    grey picture with these values. Above 3 channels the mean is copied unscaled, as is usual for flow, whose values are
    small (the first responses of EfficientNet-Lite0 to 20 channels are 0.1 to 3.5 times as large as those to the colors
    of the same video, and would be a seventh of that if scaled by 3/C); below 3 it is scaled by 3/C, so that one
    channel acts as a grey picture. The rest of the layer is unchanged; a convolution that standardizes its weights
    undoes the scale itself.

    Args:
        cnn: a network whose first convolution, in the order of its modules, takes the pictures.
        channels: input channels.

    Raises:
        ValueError: ``channels < 1``.
        NotImplementedError: a CNN without a convolution, or whose first one has groups or a computed weight.
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
        cnn.input_spec = {**spec, **figures}  # type: ignore[assignment]  # plain data, no module
    return cnn


def first_convolution(cnn: nn.Module) -> nn.Conv2d | nn.Conv3d:
    """The first 2D or 3D convolution in the order of modules. Raises NotImplementedError if there is none."""
    for module in cnn.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            return module
    raise NotImplementedError(f"expected a network with a convolution, {type(cnn).__name__} has none")


def turn_colors_round(model: nn.Module) -> None:
    """Makes the first convolution take R, G, B instead of B, G, R, or vice versa."""
    conv = first_convolution(model)
    if conv.in_channels == 3:
        with torch.no_grad():
            conv.weight.copy_(conv.weight.flip(1))  # (O, 3, kernel)


def load_into(model: nn.Module, path: str | Path, new_output: bool, channels: int | None) -> nn.Module:
    """`load_weights`, from a file for 3 or for ``channels`` input channels; if the latter, first adapts the network."""
    path = weights_file(path)
    own = model.state_dict()
    state = _named_as(own, _unwrap(read_weights(path), path))
    if any(".input_to_hidden." in key for key in state):
        raise ValueError(f"{path}: expected weights of a CNN or of a frame-wise network, got a recurrent network's")
    if channels is not None and _inputs_in(state, model) == channels:
        own = adapt_channels(model, channels).state_dict()
    # Counters of batches: files from before they existed lack them, and no result depends on them.
    state.update({k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in state})
    if new_output and not _same(own, state):
        state = _with_own_output(model, own, state)
    check_state(own, state, path)
    model.load_state_dict(state)
    return model


def weights_file(path: str | Path) -> Path:
    """The file of weights at a path, which may be a run folder. Raises FileNotFoundError if there is none."""
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}, nor a run folder with model.safetensors")
    return path


def _inputs_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Input channels of the network's first convolution according to a state dict."""
    conv = first_convolution(model)
    name = next(name for name, module in model.named_modules() if module is conv)
    weight = state.get(f"{name}.weight")
    return None if weight is None or weight.ndim < 2 else weight.shape[1]


def _with_own_output(model: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors; if the output layers differ, with the network's own for that layer, as it is replaced."""
    behind = [key for key in state if key not in own and key.startswith("output_0.")]
    if behind:  # framewise has appended it to a CNN without an output layer
        return {key: value for key, value in state.items() if key not in behind}
    head = find_output_layer(open_network(model).cnn)
    keys = [] if head is None else [key for key in own if key.startswith(f"{head.target}.")]
    if head is None or all(key in state and state[key].shape == own[key].shape for key in keys):
        return state
    kept = {key: value for key, value in state.items() if not key.startswith(f"{head.target}.")}
    return {**kept, **{key: own[key] for key in keys}}


def _same(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)


_C3D_LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7")


_NUMBERED = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)] + ["classifier.0", "classifier.3"]


_MMACTION = [f"conv{i}.conv" for i in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")]


C3D_NAMES = {**dict(zip(_NUMBERED, _C3D_LAYERS, strict=True)), **dict(zip(_MMACTION, _C3D_LAYERS[:8], strict=True))}


C3D_NAMES["cls_head.fc_cls"] = "fc8"
"""Names of C3D's layers in published files (numbered: the file known as c3d-pretrained.pth; MMAction2's), and in
`prernn.models.networks.c3d`. c3d.pickle has the latter."""


def _named_as(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the network's own names, if the file's differ by a common prefix or are C3D's."""
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


def read_weights(path: Path) -> Any:
    """The content of a file of weights, read without running code. ValueError if it is none."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".json":
            return face_landmarks_state(path)
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


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError, on one line, if a state dict does not fit the network's own."""
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
