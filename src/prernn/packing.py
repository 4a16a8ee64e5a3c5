"""Quantized networks as files: each count in as many bits as its layer needs, the rest as it is.

A file is safetensors with the packed counts as bytes; how each is to be read stands in the metadata, so that nothing in
it is executed.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prernn.files import whole_file
from prernn.quantize import COUNTS, SCALE, bits_of, weights_of

PACKED = "_packed"
LAYOUT_KEY = "prernn_quantized"
"""Metadata of a file: for each packed weight its bits, lowest count and shape."""


def pack(counts: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Counts as bytes, ``bits`` for each from its lowest bit on, and how to read them: bits, lowest count, shape."""
    bits, low = bits_of(counts), int(counts.min())
    raised = (counts.flatten().long() - low).numpy()  # 0 .. 2**bits - 1
    digits = (raised[:, None] >> np.arange(bits)) & 1  # (n, bits)
    packed = np.packbits(digits.astype(np.uint8))
    return torch.from_numpy(packed), {"bits": bits, "low": low, "shape": list(counts.shape)}


def unpack(packed: Tensor, layout: dict[str, Any]) -> Tensor:
    """Counts that `pack` packed, int64.

    Raises:
        ValueError: a layout that does not fit the bytes.
    """
    bits, low, shape = layout["bits"], layout["low"], layout["shape"]
    numbers = [bits, *shape]
    if not all(isinstance(n, int) and n >= 0 for n in numbers) or not isinstance(low, int) or bits > 62:
        raise ValueError(f"expected bits, low and shape as integers, got {layout}")
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.numel() != -(-count * bits // 8):
        raise ValueError(
            f"expected {-(-count * bits // 8)} bytes for {count} counts of {bits} bits, got {packed.numel()}"
        )
    digits = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    raised = (digits.astype(np.int64) << np.arange(bits)).sum(1)
    return (torch.from_numpy(raised) + low).view(shape)


def packed_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The module's state with packed counts in place of quantized weights, and the layout of each by its name."""
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    layouts = {}
    for weight in weights_of(module):
        if weight.is_quantized:
            counts = state.pop(weight.name + COUNTS)
            del state[weight.name]
            state[weight.name + PACKED], layouts[weight.name] = pack(counts)
    return state, layouts


def restore(module: nn.Module, state: dict[str, Tensor], layouts: dict[str, Any]) -> dict[str, Tensor]:
    """Puts the packed weights of ``state`` into a module of the same architecture; returns its whole state dict.

    Raises:
        ValueError: counts or scales of another network.
    """
    state = dict(state)
    known = {weight.name: weight for weight in weights_of(module)}
    if odd := sorted(set(layouts) - set(known)):
        raise ValueError(f"holds another network: {len(odd)} quantized weights don't fit ({', '.join(odd[:3])})")
    for name, layout in layouts.items():
        weight = known[name]
        try:
            counts, scale = unpack(state.pop(name + PACKED), layout), state[name + SCALE]
        except KeyError as error:
            raise ValueError(f"expected tensors and layout of {name}, found no {error.args[0]!r}") from None
        neurons = int(weight.neuron.max()) + 1
        if counts.shape != weight.values.shape or scale.shape not in ((), (neurons,)):
            raise ValueError(f"holds another network: {name} has shape {list(counts.shape)}")
        weight.set(counts, scale)
        state[name], state[name + COUNTS] = weight.values.detach(), weight.counts
    return state


def is_quantized(module: nn.Module) -> bool:
    """Whether any weight of the module is quantized."""
    return any(weight.is_quantized for weight in weights_of(module))


def save_quantized(module: nn.Module, path: str | Path) -> Path:
    """Writes any quantized module to a ``.safetensors`` file, which appears whole or not at all.

    Raises:
        OSError: the file can't be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state, layouts = packed_state(module)
    with whole_file(path) as part:
        save_file(state, part, metadata={LAYOUT_KEY: json.dumps(layouts)})
    return path


def load_quantized(module: nn.Module, path: str | Path) -> nn.Module:
    """Loads what `save_quantized` wrote into a module of the same architecture, in place; returns the module.

    Raises:
        ValueError: an absent file, one without quantized weights, or one of another network.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors file: {error}") from None
    if LAYOUT_KEY not in metadata:
        raise ValueError(f"{path}: expected quantized weights, found a file without")
    try:
        module.load_state_dict(restore(module, state, json.loads(metadata[LAYOUT_KEY])))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return module
