"""Runs a stream through an exported step, with onnxruntime."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from prernn_runtime.resets import Eyes, reset_policy
from prernn_runtime.transform import frame_transform

KEY, FORM = "prernn", 1
"""Key of the description in a file's metadata, and version of its format; later versions are rejected."""

YOUNGER, REMEMBERED = "younger_", "reset_"
"""Prefixes of names in a saved stream: for a second state, and for what a reset policy remembers."""

State = list[np.ndarray]


class Stream:
    """A stream through a network: call it with a frame, get the current output. The interface is `prernn.Stream`'s.

    ``stream(frame)`` applies the file's transform to uint8 ``(H, W, 3)`` RGB, takes float32 ``(C, H, W)`` unchanged,
    and returns float32 ``(K,)``. For a network of snippets it collects uint8 frames, and returns None until a snippet
    is full. With ``batch_size`` B > 1, B streams run in parallel: frames and outputs have a leading dimension B.

    ``reset`` says when the state is reset automatically (`prernn_runtime.resets`). If frames are not uint8 pictures,
    show the picture to the policy first, ``stream.look(picture, time)``; "idle" needs times, ``stream(frame, time)``.

    Args:
        path: a file written by ``prernn export RUN``, format onnx, kind step.
        threads: number of threads for a step; None leaves it to onnxruntime.
        batch_size: number of parallel streams.
        reset: "never", "cut", "idle:SECONDS" or "every:N"; None is the network's own.

    Attributes:
        labels: names of the outputs, or None.
        rate: frames per second that the network was trained at, or None.

    Raises:
        ValueError: a file that is not prernn's, is of a later version, or is a sequence; ``batch_size < 1``; an unknown
            reset, or an N that is not a multiple of two snippets.
        NotImplementedError: "cut" or "idle" for snippets of several streams.
    """

    _shown = False  # whether the caller shows the policy its pictures

    def __init__(self, path: str | Path, *, threads: int | None = None, batch_size: int = 1, reset: str | None = None):
        if batch_size < 1:
            raise ValueError(f"expected a batch of at least 1 stream, got {batch_size}")
        self._session = _session(Path(path), threads)
        self._about = _described(self._session, path)
        self._names = [value.name for value in self._session.get_inputs()]
        self.batch_size = batch_size
        self.labels: list[str] | None = self._about.get("labels")
        self.rate: float | None = self._about.get("rate")
        transform = self._about.get("transform")
        self._transform = None if transform is None else frame_transform(transform)
        self._shape = tuple(self._about["frame_shape"])
        self._snippet = self._shape[1] if len(self._shape) == 4 else 1
        self._eyes, self._half = self._policy(reset or self._about.get("reset") or "never")
        self.reset()

    def _policy(self, text: str) -> tuple[Eyes | None, int]:
        """The policies that watch pictures, and the number of steps after which a second state starts, 0 for never."""
        policy = reset_policy(text)
        if isinstance(policy, int):
            if policy % (2 * self._snippet):
                raise ValueError(f"expected a reset every multiple of {2 * self._snippet} frames, got {text!r}")
            return None, policy // (2 * self._snippet)
        if policy is None:
            return None, 0
        if self._snippet > 1 and self.batch_size > 1:
            raise NotImplementedError(f"reset {text!r}: expected one stream of snippets, got {self.batch_size}")
        return Eyes(text, self.batch_size), 0

    def reset(self) -> None:
        """Forgets what the stream has seen."""
        self._state: State | None = None
        self._younger: State | None = None  # replaces the state, see ``every:N``
        self._age = 0  # steps since the first frame, up to where the younger state takes over for the first time
        if self._eyes is not None:
            self._eyes.forget()
        self._pending: list[np.ndarray] = []  # (B, C, H, W) frames of the incomplete snippet

    def look(self, picture: np.ndarray, time: float | Sequence[float] | None = None) -> list[int]:
        """Shows the next picture to the reset policy; returns the indices of the streams that are reset at it.

        Until this is called for the first time, ``stream(frame)`` does it automatically with its uint8 pictures.

        Args:
            picture: uint8 ``(H, W, 3)``; with several streams ``(B, H, W, 3)``.
            time: in seconds, for "idle"; one for all streams, or one for each.

        Raises:
            ValueError: no time although the policy needs one.
            NotImplementedError: anything but a picture although the policy needs one.
        """
        self._shown = True
        return [] if self._eyes is None else self._begin_anew(np.asarray(picture), time)

    def _begin_anew(self, picture: np.ndarray, time: float | Sequence[float] | None) -> list[int]:
        assert self._eyes is not None
        pictures = [picture] if self.batch_size == 1 else list(np.atleast_1d(picture))
        if len(pictures) != self.batch_size:
            raise ValueError(f"expected pictures of {self.batch_size} streams, got {len(pictures)}")
        rows = self._eyes.due(pictures, time)
        if len(rows) == self.batch_size:
            self._state, self._pending = None, []
        elif rows and self._state is not None:  # every stream starts from zeros
            self._state = [leaf.copy() for leaf in self._state]
            for leaf in self._state:
                leaf[rows] = 0
        return rows

    def __call__(self, frame: np.ndarray, time: float | Sequence[float] | None = None) -> np.ndarray | None:
        """The output for the next frame ``(K,)``; with several streams ``(B, K)``; None within a snippet.

        Args:
            frame: the frame.
            time: time of the frame in seconds, for the reset "idle".

        Raises:
            ValueError: a type or shape that does not fit, numbers that are not finite, no time for "idle"; the stream
                remains unchanged, except that its reset policy may have seen the frame.
            NotImplementedError: a frame that is no picture although the reset needs one.
        """
        frame = np.asarray(frame)
        if self._eyes is not None and not self._shown:
            self._begin_anew(frame, time)
        given = self._input(frame)
        if given is None:
            return None
        state, younger, age = self._of_age() if self._half else (self._state, None, 0)
        out, state = self._step(given, state)
        if age > self._half > 0:
            _, younger = self._step(given, younger)
        self._state, self._younger, self._age = state, younger, age
        return out[0] if self.batch_size == 1 else out

    def _of_age(self) -> tuple[State | None, State | None, int]:
        """The older state, the younger, which replaces it every half period, and the older's age after this step."""
        if self._age == 2 * self._half:
            return self._younger, None, self._half + 1
        return self._state, self._younger, self._age + 1

    def _step(self, given: np.ndarray, state: State | None) -> tuple[np.ndarray, State]:
        if state is None:
            shapes = [leaf["file_shape"] for leaf in self._about["states"]]
            state = [np.zeros((self.batch_size, *shape), np.float32) for shape in shapes]
        out, *state = self._session.run(None, dict(zip(self._names, [given, *state], strict=True)))
        return out, state

    def probabilities(self, frame: np.ndarray, time: float | Sequence[float] | None = None) -> np.ndarray | None:
        """Like a call, but with softmax over the ``K`` outputs."""
        out = self(frame, time)
        if out is None:
            return None
        powers = np.exp(out - out.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state as arrays, in the form of `prernn.Stream.state_dict`: either can continue the other's stream."""
        values: dict[str, np.ndarray] = {}
        for prefix, state in (("", self._state), (YOUNGER, self._younger)):
            for leaf, value in zip(self._about["states"], state or (), strict=state is not None):
                values[prefix + leaf["name"]] = value.reshape(self.batch_size, *leaf["shape"]).copy()
        if self._pending:
            values["pending"] = np.stack(self._pending, axis=2)
        memory = self._eyes.memory() if self._eyes is not None else {}
        if self._half and self._age:
            memory = {"age": np.full(self.batch_size, self._age)}
        return values | {REMEMBERED + name: value.copy() for name, value in memory.items()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Continues where the stream of `state_dict` was. Without a memory, the reset policy starts from scratch.

        Raises:
            ValueError: names or shapes of another network, number of streams or reset; the stream remains unchanged.
        """
        given = {name: np.asarray(value) for name, value in values.items()}
        memory, rest = _apart(given, REMEMBERED)
        younger, rest = _apart(rest, YOUNGER)
        pending = self._checked_pending(rest.pop("pending", None))
        state = self._checked_state(rest) if rest else None
        second = self._checked_state(younger) if younger else None
        age = self._checked_age(memory, second is not None) if self._half else 0
        if self._eyes is not None:
            self._eyes.checked(memory)
        if (younger and not self._half) or (memory and not self._half and self._eyes is None):
            raise ValueError(f"expected the state of a stream with this reset, got {sorted(values)}")
        self._state, self._younger, self._age, self._pending = state, second, age, pending
        if self._eyes is not None:
            self._eyes.recall(memory)

    def _checked_state(self, leaves: dict[str, np.ndarray]) -> State:
        known = {leaf["name"]: (self.batch_size, *leaf["shape"]) for leaf in self._about["states"]}
        if (got := {name: value.shape for name, value in leaves.items()}) != known:
            raise ValueError(f"expected a state {known}, got {got}")
        states = self._about["states"]
        return [leaves[leaf["name"]].astype(np.float32).reshape(-1, *leaf["file_shape"]) for leaf in states]

    def _checked_age(self, memory: dict[str, np.ndarray], younger: bool) -> int:
        """Age of the older state in steps; ValueError if it contradicts the presence of a younger one."""
        if memory and (set(memory) != {"age"} or memory["age"].shape != (self.batch_size,)):
            raise ValueError(f"expected reset_age of shape ({self.batch_size},), got {sorted(memory)}")
        age = int(memory["age"][0]) if memory else 0
        if not 0 <= age <= 2 * self._half or younger != (age > self._half):
            second = "a" if younger else "no"
            raise ValueError(f"expected an age that fits {second} second state, at most {2 * self._half}, got {age}")
        return age

    def _checked_pending(self, pending: np.ndarray | None) -> list[np.ndarray]:
        """The checked frames of an incomplete snippet."""
        if pending is None:
            return []
        fits = pending.ndim == 5 and pending.shape[:2] == (self.batch_size, self._shape[0])
        if not fits or pending.shape[2] >= self._snippet:
            wanted = f"({self.batch_size}, {self._shape[0]}, n, H, W)"
            raise ValueError(f"expected less than {self._snippet} pending frames {wanted}, got {pending.shape}")
        return list(pending.astype(np.float32).transpose(2, 0, 1, 3, 4))

    def _input(self, frame: np.ndarray) -> np.ndarray | None:
        """Frames as input of the network, ``(B, C, H, W)``; None within a snippet."""
        if self.batch_size == 1:
            frame = frame[None]
        elif frame.ndim == 0 or frame.shape[0] != self.batch_size:
            raise ValueError(f"expected frames of {self.batch_size} streams, got shape {frame.shape}")
        if frame.dtype == np.uint8:
            if self._transform is None:
                raise ValueError("expected a float frame, got uint8: the file has no transform for it")
            value = self._collected(np.stack([self._transform(picture) for picture in frame]))
            if value is None:
                return None
        else:
            wanted = np.integer if self._about["input_type"] == "int64" else np.floating
            if not np.issubdtype(frame.dtype, wanted):
                raise ValueError(f"expected a frame uint8 (H, W, 3) or {wanted.__name__}, got {frame.dtype}")
            value = frame.astype(self._about["input_type"])
        shape = value.shape[1:]
        fits = len(shape) == len(self._shape) and shape[0] == self._shape[0] and 0 not in shape
        fits = fits and (len(shape) < 3 or shape[:-2] == self._shape[:-2])
        if not fits or (not self._about["free_size"] and shape != self._shape):
            raise ValueError(f"expected a frame uint8 (H, W, 3) or float {self._shape}, got {frame.dtype} {shape}")
        if not np.isfinite(value).all():
            raise ValueError("expected a frame of finite numbers, got NaN or infinite ones")
        return value

    def _collected(self, frames: np.ndarray) -> np.ndarray | None:
        """The frames ``(B, C, H, W)``; for a network of snippets, a snippet ``(B, C, D, H, W)`` once it is full."""
        if len(self._shape) < 4:
            return frames
        if self._pending and self._pending[0].shape != frames.shape:
            expected, got = self._pending[0].shape, frames.shape
            raise ValueError(f"expected frames {expected} as before in this snippet, got {got}")
        self._pending.append(frames)
        if len(self._pending) < self._snippet:
            return None
        snippet, self._pending = np.stack(self._pending, axis=2), []
        return snippet


def _apart(values: dict[str, np.ndarray], prefix: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The values whose names begin with ``prefix``, without it, and the others."""
    named = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return named, {name: value for name, value in values.items() if not name.startswith(prefix)}


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
    except Exception as error:  # onnxruntime's own errors, which have no common base class
        raise ValueError(f"{path}: onnxruntime can't run it: {str(error).splitlines()[0]}") from error


def _described(session: Any, path: str | Path) -> dict[str, Any]:
    """The description in a file's metadata."""
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
