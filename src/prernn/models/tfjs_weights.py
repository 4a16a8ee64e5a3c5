"""Files of weights as TensorFlow.js keeps them: a manifest (JSON) that names tensors, beside files of their bytes."""

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
    """The tensors of a manifest, under its own names, float32; those that are quantized times their scale.

    Nothing in such files is run.

    Args:
        path: the manifest, ``..._weights_manifest.json``; the files of bytes that it names lie beside it.

    Raises:
        ValueError: a file that is no manifest, or bytes that are not as many as it says.
        OSError: a file that can't be read.
    """
    path, tensors = Path(path), {}
    try:
        for group in json.loads(path.read_text(encoding="utf-8")):
            # names alone, so that a manifest reads nothing from elsewhere
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
    """A tensor out of the bytes, and where the next begins."""
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
    """The state dict of `prernn.models.networks.face_landmarks.FaceLandmarks`; raises as `read_tfjs`."""
    return as_face_landmarks(read_tfjs(path))
