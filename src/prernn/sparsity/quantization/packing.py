"""Quantized networks as files: counts in as few bits as possible (`coding`), everything else unchanged.

A file is safetensors with the packed counts as bytes; the metadata says how to read each. Nothing in a file is
executed.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prernn.layers.computed_weights import settle
from prernn.reports.files import whole_file
from prernn.sparsity.quantization.coding import pack, unpack
from prernn.sparsity.quantization.weights import COUNTS, SCALE, weights_of

PACKED = "_packed"
LAYOUT_KEY = "prernn_quantized"
"""Metadata key of the layouts, which say how to read each packed weight."""


def packed_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The module's state with packed counts instead of quantized weights, and the layout of each by name.

    A quantized weight that has several names in the module is stored once, under the first.
    """
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    layouts = {}
    for weight in weights_of(module):
        if weight.is_quantized:
            counts, scale = state[weight.name + COUNTS], state[weight.name + SCALE]
            held = {tensor.data_ptr() for tensor in (state[weight.name], counts, scale)}
            state = {name: tensor for name, tensor in state.items() if tensor.data_ptr() not in held}
            state[weight.name + PACKED], layouts[weight.name] = pack(counts)
            state[weight.name + SCALE] = scale
    return _apart(state), layouts


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state whose tensors share no memory, as safetensors requires."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in state.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def unpacked_state(module: nn.Module, state: dict[str, Tensor], layouts: dict[str, Any]) -> dict[str, Tensor]:
    """Loads the packed weights of ``state`` into a module of the same architecture; returns its complete state dict.

    Raises:
        ValueError: counts or scales of another network, or inconsistent layouts.
    """
    if not isinstance(layouts, dict):
        raise ValueError(f"expected the layout of each packed weight by its name, got {type(layouts).__name__}")
    state = dict(state)
    known = {weight.name: weight for weight in weights_of(module)}
    if odd := sorted(set(layouts) - set(known)):
        raise ValueError(f"holds another network: {len(odd)} quantized weights don't fit ({', '.join(odd[:3])})")
    held = set()
    for name, layout in layouts.items():
        weight = known[name]
        if missing := [end for end in (PACKED, SCALE) if name + end not in state]:
            raise ValueError(f"expected tensors and layout of {name}, found no {name + missing[0]!r}")
        packed, scale = state.pop(name + PACKED), state.pop(name + SCALE)
        try:
            counts = unpack(packed, layout, tuple(weight.values.shape))
        except ValueError as error:
            raise ValueError(f"holds another network: {name}: {error}") from None
        if scale.shape not in ((), (int(weight.neuron.max()) + 1,)) or not scale.is_floating_point():
            raise ValueError(f"holds another network: {name} has scales {scale.dtype} {list(scale.shape)}")
        weight.set(counts, scale)
        held |= {tensor.data_ptr() for tensor in (weight.values, weight.counts, weight.scale)}
    return state | {name: tensor for name, tensor in module.state_dict().items() if tensor.data_ptr() in held}


def is_quantized(module: nn.Module) -> bool:
    """Whether any weight of the module is quantized."""
    return any(weight.is_quantized for weight in weights_of(module))


def save_quantized(module: nn.Module, path: str | Path) -> Path:
    """Writes any quantized module to a ``.safetensors`` file, which appears complete or not at all.

    Example:
        >>> import prernn, torch
        >>> import tempfile
        >>> small = prernn.quantize(torch.nn.Linear(64, 32), samples_per_weight=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = prernn.save_quantized(small, f"{folder}/small.safetensors")
        ...     size = file.stat().st_size
        >>> size < 64 * 32 * 4  # bytes; a float has four
        True

    For a `RecurrentNetwork` use `prernn.save`, whose file contains how the network is built.

    Raises:
        ValueError: a path with another suffix.
        OSError: the file can't be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a path that ends in .safetensors, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    state, layouts = packed_state(module)
    with whole_file(path) as part:
        save_file(state, part, metadata={LAYOUT_KEY: json.dumps(layouts)})
    return path


def load_quantized(module: nn.Module, path: str | Path) -> nn.Module:
    """Loads what `save_quantized` wrote into a module of the same architecture, in place; returns the module.

    Pruning, weight norm and spectral norm of the module are removed.

    Example:
        >>> import prernn, torch
        >>> import tempfile
        >>> small = prernn.quantize(torch.nn.Linear(64, 32), samples_per_weight=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = prernn.save_quantized(small, f"{folder}/small.safetensors")
        ...     again = prernn.load_quantized(torch.nn.Linear(64, 32), file)
        >>> torch.equal(again.weight, small.weight)
        True

    Raises:
        ValueError: a file that is missing, has no quantized weights, or is of another network.
    """
    path = Path(path)
    metadata, state = read_safetensors(path)
    if LAYOUT_KEY not in metadata:
        raise ValueError(f"{path}: expected quantized weights, found a file without")
    settle(module)
    try:
        module.load_state_dict(unpacked_state(module, state, json.loads(metadata[LAYOUT_KEY])))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return module


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. ValueError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors file: {error}") from None
