"""Weights in the format of TensorFlow.js: a manifest (JSON) that names tensors, and binary files next to it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.models.networks.face_landmarks import as_face_landmarks

KINDS = {"float32": "<f4", "int32": "<i4", "uint8": "u1", "uint16": "<u2"}


def read_tfjs(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a manifest, under its own names, in float32; quantized tensors are dequantized.

    Nothing in such files is executed.

    Args:
        path: the manifest, ``..._weights_manifest.json``; the binary files that it names must be in the same folder.

    Raises:
        ValueError: a file that is no manifest, or a number of bytes that contradicts it.
        OSError: a file that can't be read.
    """
    path, tensors = Path(path), {}
    try:
        for group in json.loads(path.read_text(encoding="utf-8")):
            # only file names are used, so that a manifest can't read other folders
            raw = b"".join((path.parent / Path(name).name).read_bytes() for name in group["paths"])
            begin = 0
            for entry in group["weights"]:
                tensors[entry["name"]], begin = _tensor(entry, raw, begin)
            if begin != len(raw):
                raise ValueError(f"expected {begin} bytes of weights, got {len(raw)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a manifest of TensorFlow.js' weights: {error}") from None
    return tensors


def _tensor(entry: dict[str, Any], raw: bytes, begin: int) -> tuple[Tensor, int]:
    """A tensor from the bytes, and where the next one begins."""
    quantized = entry.get("quantization")
    kind = np.dtype(KINDS[quantized["dtype"] if quantized else entry["dtype"]])
    count = math.prod(entry["shape"])
    end = begin + count * kind.itemsize
    if end > len(raw):
        raise ValueError(f"expected {end} bytes of weights, got {len(raw)}")
    values = np.frombuffer(raw, kind, count, begin).astype(np.float32)
    if quantized:
        values = values * np.float32(quantized["scale"]) + np.float32(quantized["min"])
    return torch.from_numpy(values.reshape(entry["shape"])), end


def face_landmarks_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict for `prernn.models.networks.face_landmarks.FaceLandmarks`; raises errors as in `read_tfjs`."""
    return as_face_landmarks(read_tfjs(path))
