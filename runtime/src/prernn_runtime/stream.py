"""A stream through an exported step, with onnxruntime."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from prernn_runtime.transform import frame_transform

KEY, FORM = "prernn", 1
"""Of the description in a file's metadata, and its form; a later one is refused."""


class Stream:
    """A stream through a network: call it with a frame, get the output of that moment. The calls are `prernn.Stream`'s.

    ``stream(frame)`` takes uint8 ``(H, W, 3)`` RGB through the transform in the file, or float32 ``(C, H, W)`` as it
    is, and gives float32 ``(K,)``. A network of snippets collects uint8 frames, and gives None until one is full.

    Args:
        path: what ``prernn export RUN`` wrote, format onnx, kind step.
        threads: of a step; None leaves it to onnxruntime.

    Attributes:
        labels: names of the outputs, or None.
        rate: frames a second that the network was trained at, or None.

    Raises:
        ValueError: a file that is none of prernn's, of a later form, or a sequence.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None):
        self._session = _session(Path(path), threads)
        self._about = _described(self._session, path)
        recipe = self._about
        self.labels: list[str] | None = recipe.get("labels")
        self.rate: float | None = recipe.get("rate")
        transform = recipe.get("transform")
        self._transform = None if transform is None else frame_transform(transform)
        self._shape = tuple(self._about["frame_shape"])
        self.reset()

    def reset(self) -> None:
        """Forgets what the stream has seen."""
        self._state = [np.zeros((1, *leaf["file_shape"]), np.float32) for leaf in self._about["states"]]
        self._pending: list[np.ndarray] = []

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """The output for the next frame ``(K,)``; None within a snippet.

        Raises:
            ValueError: a type or shape that does not fit, numbers that are not finite; the stream stays as it was.
        """
        given = self._input(np.asarray(frame))
        if given is None:
            return None
        names = [value.name for value in self._session.get_inputs()]
        out, *self._state = self._session.run(None, dict(zip(names, [given, *self._state], strict=True)))
        return out[0]

    def probabilities(self, frame: np.ndarray) -> np.ndarray | None:
        """As a call, but with softmax over the ``K`` outputs."""
        out = self(frame)
        if out is None:
            return None
        powers = np.exp(out - out.max())
        return powers / powers.sum()

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state as `prernn.Stream.state_dict` has it, as arrays: a stream goes on in either."""
        leaves = zip(self._about["states"], self._state, strict=True)
        values = {leaf["name"]: value.reshape(1, *leaf["shape"]).copy() for leaf, value in leaves}
        if self._pending:
            values["pending"] = np.stack(self._pending, axis=1)[None]
        return values

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Goes on where the stream of `state_dict` was.

        Raises:
            ValueError: names or shapes of another network; the stream is left as it was.
        """
        known = {leaf["name"]: (1, *leaf["shape"]) for leaf in self._about["states"]}
        given = {name: np.asarray(value, np.float32) for name, value in values.items()}
        got = {name: value.shape for name, value in given.items() if name != "pending"}
        if got and got != known:
            raise ValueError(f"expected a state {known}, got {got}")
        pending, full = given.get("pending"), self._shape[1] if len(self._shape) == 4 else 1
        if pending is not None and (
            pending.ndim != 5 or pending.shape[1] != self._shape[0] or pending.shape[2] >= full
        ):
            raise ValueError(f"expected less than {full} pending frames (1, C, n, H, W), got {pending.shape}")
        self.reset()
        if got:
            shapes = [leaf["file_shape"] for leaf in self._about["states"]]
            self._state = [given[name].reshape(1, *shape) for name, shape in zip(known, shapes, strict=True)]
        if pending is not None:
            self._pending = list(pending[0].transpose(1, 0, 2, 3))

    def _input(self, frame: np.ndarray) -> np.ndarray | None:
        """A frame as the file takes it, ``(1, C, H, W)``."""
        if frame.dtype == np.uint8:
            if self._transform is None:
                raise ValueError("expected a float frame, got uint8: the file has no transform for it")
            value = self._transform(frame)
            if len(self._shape) == 4:
                return self._collected(value)
        else:
            wanted = np.integer if self._about["input_type"] == "int64" else np.floating
            if not np.issubdtype(frame.dtype, wanted):
                raise ValueError(f"expected a frame uint8 (H, W, 3) or {wanted.__name__}, got {frame.dtype}")
            value = frame.astype(self._about["input_type"])
        fits = len(value.shape) == len(self._shape) and value.shape[0] == self._shape[0]
        if not fits or (not self._about["free_size"] and value.shape != self._shape):
            raise ValueError(
                f"expected a frame uint8 (H, W, 3) or float {self._shape}, got {frame.dtype} {frame.shape}"
            )
        if not np.isfinite(value).all():
            raise ValueError("expected a frame of finite numbers, got NaN or infinite ones")
        return value[None]

    def _collected(self, value: np.ndarray) -> np.ndarray | None:
        """A snippet, once it is full."""
        self._pending.append(value)
        if len(self._pending) < self._shape[1]:
            return None
        snippet, self._pending = np.stack(self._pending, axis=1), []
        return snippet[None]


def _session(path: Path, threads: int | None) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file that prernn export wrote, found none")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, which have no common one
        raise ValueError(f"{path}: onnxruntime can't run it: {str(error).splitlines()[0]}") from error


def _described(session: Any, path: str | Path) -> dict[str, Any]:
    """What a file says of itself."""
    try:
        about: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        form, kind = about["form"], about["kind"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: expected a file that prernn export wrote, found none of its metadata") from None
    if form > FORM:
        raise ValueError(f"{path}: expected an export of form {FORM}, got {form}: update prernn-runtime")
    if kind != "step":
        raise ValueError(f"{path}: expected a file of a step, got one of a {kind}: export --kind step")
    return about
