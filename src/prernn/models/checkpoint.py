"""Networks as files: weights as safetensors, with the recipe in the file's metadata."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.models.from_recipe import rebuild
from prernn.ops.narrow import refuse_narrow
from prernn.reports.files import whole_file
from prernn.sparsity.quantization.integer_network import IntegerLayer
from prernn.sparsity.quantization.packing import LAYOUT_KEY, packed_state, read_safetensors, unpacked_state

FILE_NAME = "model.safetensors"
RECIPE_KEY = "prernn_recipe"


def save(net: SequenceNetwork, path: str | Path) -> Path:
    """Writes a network's weights and recipe to ``path`` (``.safetensors``, or a folder for ``model.safetensors``).

    Example:
        >>> import prernn, torch
        >>> import tempfile
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = prernn.save(net, folder)
        >>> path.name
        'model.safetensors'

    The file appears complete or not at all. Weights made by `prernn.quantize` are stored as packed counts.

    Raises:
        ValueError: a module that is not a `SequenceNetwork`.
        NotImplementedError: integer layers and weights of few bits, which can be made again from the network.
        OSError: the file can't be written, for instance because the disk is full.
    """
    if not isinstance(net, SequenceNetwork):
        wrapped = next((name for name in ("module", "_orig_mod") if hasattr(net, name)), "")
        advice = f"pass its .{wrapped}" if wrapped else "of other modules, torch.save the state_dict()"
        expected = "expected a network made by prernn.convert or another function of prernn"
        raise ValueError(f"{expected}, got {type(net).__name__}: {advice} (quantized: prernn.save_quantized)")
    if any(isinstance(part, IntegerLayer) for part in net.modules()):
        raise NotImplementedError("save the quantized network, and make its integer_network after loading")
    refuse_narrow(net, "save the network itself, and make its low_precision after loading")
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, layouts = packed_state(net)
    metadata = {RECIPE_KEY: json.dumps(net.recipe.to_json())} | ({LAYOUT_KEY: json.dumps(layouts)} if layouts else {})
    try:
        with whole_file(path) as part:
            save_file(tensors, part, metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise OSError(f"can't write {path}: {error}") from error
    return path


def load(path: str | Path, cnn: nn.Module | None = None) -> SequenceNetwork:
    """Loads the network from a run folder, a ``.safetensors`` or a Lightning ``.ckpt`` file, in evaluation mode.

    Example:
        >>> import prernn, torch
        >>> import tempfile
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn.eval(), "fc6", cell="gru", outputs=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = prernn.load(prernn.save(net, folder))  # load(path, cnn) for a CNN of your own
        >>> video = torch.rand(1, 4, 3, 16, 16)
        >>> torch.equal(again(video)[0], net(video)[0])
        True

    Args:
        path: what `save` or ``prernn fit`` wrote. Nothing in it is executed; a user's own class that it names, by file
            or package, is imported (`prernn.layers.names.own_class`).
        cnn: the CNN that was made recurrent, if the recipe names no backbone (a CNN of your own).

    Raises:
        ValueError: a file that is missing or no prernn checkpoint, or weights that don't fit the recipe.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint or a run folder that holds {FILE_NAME}, found none")
    recipe, weights, layouts = _read_lightning(path) if path.suffix == ".ckpt" else _read_safetensors(path)
    network = _rebuilt(path, recipe, cnn)
    if layouts:
        try:
            weights = unpacked_state(network, weights, layouts)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    load_state(network, weights, path)
    return network.eval()


def recipe_of(path: str | Path) -> Recipe:
    """The recipe in a Lightning checkpoint, without reading its weights.

    Raises:
        ValueError: the file is no prernn checkpoint.
    """
    return Recipe.from_json(_lightning_content(Path(path), mmap=True)[RECIPE_KEY])


def rewrite_recipe(path: str | Path, recipe: Recipe) -> Path:
    """Replaces the recipe in a checkpoint, ``.safetensors`` or Lightning's ``.ckpt``; everything else stays the same.

    The file is changed completely or not at all.

    Raises:
        ValueError: the file is no prernn checkpoint.
        OSError: the file can't be written.
    """
    path = Path(path)
    text = json.dumps(recipe.to_json())
    if path.suffix == ".ckpt":
        content = _lightning_content(path)
        content[RECIPE_KEY] = json.loads(text)
        with whole_file(path) as part:
            torch.save(content, part)
        return path
    metadata, tensors = read_safetensors(path)
    if RECIPE_KEY not in metadata:
        raise ValueError(f"{path}: expected a prernn checkpoint, found weights without a recipe")
    with whole_file(path) as part:
        save_file(tensors, part, metadata={**metadata, RECIPE_KEY: text})
    return path


def _rebuilt(path: Path, recipe: Any, cnn: nn.Module | None) -> SequenceNetwork:
    try:
        return rebuild(Recipe.from_json(recipe), cnn)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_state(network: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Loads a state dict into a network; ValueError, on one line, if it belongs to another network."""
    own = network.state_dict()
    odd = sorted(set(own) ^ set(weights)) + [
        name for name in own if name in weights and own[name].shape != weights[name].shape
    ]
    if odd:
        names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
        raise ValueError(f"{source}: holds another network: {len(odd)} tensors don't fit ({names})")
    network.load_state_dict(weights)


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    metadata, weights = read_safetensors(path)
    if RECIPE_KEY not in metadata:
        raise ValueError(f"{path}: expected a prernn checkpoint, found weights without a recipe")
    return json.loads(metadata[RECIPE_KEY]), weights, json.loads(metadata.get(LAYOUT_KEY, "{}"))


def _lightning_content(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected a Lightning checkpoint: {reason}") from None
    if RECIPE_KEY not in content:
        raise ValueError(f"{path}: expected a prernn checkpoint, found one without a recipe")
    return content


def _read_lightning(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    content = _lightning_content(path)
    prefix = "network."
    weights = {
        name.removeprefix(prefix): tensor for name, tensor in content["state_dict"].items() if name.startswith(prefix)
    }
    return content[RECIPE_KEY], weights, {}
