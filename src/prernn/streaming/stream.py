"""A recurrent network over a live stream: one frame in, one answer out, at constant cost and memory.

`Stream` holds the state of a stream between frames. `predictions` runs one over anything that `prernn.media.video` can
read.
"""

import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prernn.conversion.clip_network import frames_a_step
from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines.opening import opened
from prernn.engines.together import Request
from prernn.engines.torch_engine import TorchNetwork
from prernn.streaming.frame_input import Frame, FrameInput, FrameTransform
from prernn.streaming.resets import Eyes, Seen, reset_policy

if TYPE_CHECKING:  # imported when first used, as they load PyAV and torchvision
    from prernn.media.transforms import TransformSpec


YOUNGER, REMEMBERED = "younger_", "reset_"
"""Prefixes of the names in a saved stream of a second state, and of what a reset policy remembers."""


class Stream:
    """A stream through a network: call it with a frame to get the output at that moment.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)
        >>> stream = prernn.Stream(net, transform={"size": 16})
        >>> for frame in torch.zeros(4, 48, 64, 3, dtype=torch.uint8):  # pictures (H, W, 3) as they come
        ...     out = stream(frame)
        >>> out.shape
        torch.Size([3])
        >>> stream.reset()  # forgets what it has seen

    ``stream(frame)`` applies the network's transform to uint8 ``(H, W, 3)`` RGB, or takes a float ``(C, H, W)``
    unchanged (snippets ``(C, D, H, W)``; the number of a word, int64 ``(1,)``), as an array or a tensor. It returns
    what `SequenceNetwork.step` returns, ``(K,)``, on the network's device. With ``batch_size`` B > 1, B streams run in
    parallel: frames and outputs have a leading dimension B. Nothing is recorded for gradients.

    A network of snippets collects uint8 frames: it returns None until ``D`` have come, then the output of that
    snippet, then starts to collect the next; snippets do not overlap.

    Many streams may share the network, because each holds its own state. A network in training mode runs in
    evaluation mode here and is returned to training mode. What computes the steps is the engine:

    - "torch": the network itself, with its convolutions laid out channels last and fused with the operations that
      follow (`prernn.engines.fused_convolutions`). It follows changes of the network's weights, except those through
      ``.data``, which torch does not count. Without a ``precision``, large weights of a quantized network are read as
      their integers (`prernn.engines.torch_engine`).
    - "onnxruntime", "openvino": a copy of the network as it is now, exported once and kept in a cache
      (``$PRERNN_CACHE``, ``~/.cache/prernn``). CPU only.
    - "auto": the fastest for a frame on this machine, measured once, of those that are installed and agree with the
      network; ``stream.engine`` says which.

    Outputs and state are the same up to rounding: a stream's ``state_dict()`` can be continued in any engine.

    A reset policy (``reset``, `prernn.streaming.resets`) resets the state automatically, for each of several parallel
    streams by its own pictures. If frames are not uint8 pictures, such as optical flow, the policy must be shown the
    picture first, ``stream.look(picture, time)``; ``idle`` needs times, ``stream(frame, time)``.

    Args:
        net: the network, a run folder or checkpoint, or a step that `prernn.export` wrote.
        engine: "torch", "onnxruntime", "openvino" or "auto"; None is "torch", or the engine of an exported file.
        precision: "float32" (or None, see "torch"); "bfloat16" or "float16" for everything feedforward; "int8", for
            weights or for all products, depending on engine and processor (`prernn.engines.opening`).
        threads: number of threads that a step may use; None leaves it to the engine. For torch it applies to the whole
            process.
        transform: what turns uint8 frames into input: a TransformSpec, its dict, or a function from uint8
            ``(H, W, 3)`` to float ``(C, H, W)``. None takes ``net.recipe.transform``.
        batch_size: number of parallel streams.
        reset: "never", "cut", "idle:SECONDS" or "every:N"; None takes ``net.recipe.reset``, which is never by default.

    Attributes:
        net: the network.
        engine: the engine that computes it, "torch", "onnxruntime" or "openvino".
        labels: names of the ``K`` outputs from the network's recipe, or None.

    Raises:
        ValueError: ``batch_size < 1``, an unknown engine or precision, a file not written by prernn, a transform with
            unknown keys, an unknown reset, or an N that is not a whole number of pairs of snippets.
        NotImplementedError: "cut" or "idle" for snippets of several streams, which are collected together; a precision
            that engine or processor lacks.
        ImportError: the engine is not installed.
    """

    _eyes: Eyes | None = None  # finds the frames at which to reset
    _half = 0  # steps after which a second state starts, see ``every:N``; 0: never
    _shown = False  # whether the caller shows the policy its pictures

    def __init__(
        self,
        net: SequenceNetwork | str | os.PathLike[str],
        engine: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        *,
        transform: "TransformSpec | Mapping[str, Any] | FrameTransform | None" = None,
        batch_size: int = 1,
        reset: str | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"expected a batch of at least 1 stream, got {batch_size}")
        self._runs = opened(net, engine, precision, threads)
        net = self._runs.source if isinstance(self._runs, TorchNetwork) else self._runs
        self.net, self.batch_size, self.engine = net, batch_size, self._runs.engine
        self.labels: list[str] | None = net.recipe.labels
        self._input = FrameInput(self._runs, transform, batch_size)
        self._eyes, self._half = self._policy(reset or net.recipe.reset or "never")
        self.reset()

    def _policy(self, text: str) -> tuple[Eyes | None, int]:
        """`_eyes` and `_half` of a policy."""
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
        """Forgets everything the stream has seen."""
        self._diverged = False  # reported once
        self._state: tuple | None = None  # None until the first frame, whose size the state may depend on
        self._younger: tuple | None = None  # replaces the state later, see ``every:N``
        self._age = 0  # steps since the first frame, until the younger state takes over for the first time
        if self._eyes is not None:
            self._eyes.forget()
        self._pending: list[Tensor] = []  # (B, C, H, W) frames of the snippet to come

    def interrupted(self) -> None:
        """Tells it that pictures are missing before the next, as after a lost connection: "cut" resets the state then.

        For "idle" the time of the next frame decides; "never" and "every" continue.
        """
        if self._eyes is not None:
            self._eyes.interrupted()

    def look(self, picture: Frame, time: float | Sequence[float] | None = None) -> list[int]:
        """Shows the reset policy the next picture; returns the numbers of the streams that are reset before it.

        ``stream(frame)`` does so itself with its uint8 pictures, until this is called for the first time.

        Args:
            picture: uint8 ``(H, W, 3)``; with several streams ``(B, H, W, 3)``.
            time: in seconds, for "idle"; one for all streams, or one per stream.

        Raises:
            ValueError: no time, if the policy needs one.
            NotImplementedError: something other than a picture, if the policy needs one.
        """
        self._shown = True
        return [] if self._eyes is None else self._begin_anew(self._seen(picture, time))

    def _seen(self, picture: Frame, time: float | Sequence[float] | None) -> list[Seen]:
        """What the reset policy looks at."""
        assert self._eyes is not None
        pictures = [picture] if self.batch_size == 1 else list(picture)
        if len(pictures) != self.batch_size:
            raise ValueError(f"expected pictures of {self.batch_size} streams, got {len(pictures)}")
        return self._eyes.seen(pictures, time)

    def _begin_anew(self, seen: list[Seen]) -> list[int]:
        assert self._eyes is not None
        rows = self._eyes.due(seen)
        if len(rows) == self.batch_size:
            self._state, self._pending = None, []
        elif rows and self._state is not None:  # a state starts from zero
            with torch.inference_mode():
                self._state = tuple(tuple(_cleared(leaf, rows) for leaf in part) for part in self._state)
        return rows

    def __call__(self, frame: Frame, time: float | Sequence[float] | None = None) -> Tensor | None:
        """The output for the next frame, ``(K,)``; with several streams ``(B, K)``; None within a snippet.

        Args:
            frame: the frame.
            time: its time in seconds, for the reset "idle".

        Raises:
            ValueError: a dtype or shape that doesn't fit, uint8 frames for a network without a transform, no time for
                "idle". The stream is left unchanged.
            NotImplementedError: a frame that is no picture, if the reset needs one.
        """
        with torch.inference_mode(), evaluating(self.net):
            steps, answer = self.steps(self.prepared(frame, time)), None
            try:
                while True:
                    answer = self._runs.step(*steps.send(answer))
            except StopIteration as end:
                return end.value

    def prepared(self, frame: Frame, time: float | Sequence[float] | None = None) -> tuple[Tensor, list[Seen] | None]:
        """What `steps` takes for a frame; raises as a call does. The stream does not know the frame yet."""
        values = self._input(frame)
        if self._pending and values.ndim == self._pending[0].ndim and values.shape != self._pending[0].shape:
            expected, got = tuple(self._pending[0].shape), tuple(values.shape)
            raise ValueError(f"expected frames {expected} as before in this snippet, got {got}")
        return values, None if self._eyes is None or self._shown else self._seen(frame, time)

    def steps(self, prepared: tuple[Tensor, list[Seen] | None]) -> Generator[Request, Any, Tensor | None]:
        """Processes a frame without running the network itself, so that many streams can share a network's steps.

        Yields frame and state for `SequenceNetwork.step`, expects its output and next state to be sent, and returns
        what a call returns. Run it in inference mode.
        """
        values, seen = prepared
        if seen is not None:
            self._begin_anew(seen)
        batch = self._collected(values)
        if batch is None:
            return None
        state, younger, age = self._of_age() if self._half else (self._state, None, 0)
        out, state = yield batch, state
        if age > self._half > 0:
            _, younger = yield batch, younger
        self._state, self._younger, self._age = state, younger, age
        if not self._diverged and not bool(out.amax(-1).isfinite().all()):  # one output may be -inf
            self._diverged = True
            warnings.warn(
                "the network's output is not a number, or infinite: it has diverged", RuntimeWarning, stacklevel=3
            )
        return out[0] if self.batch_size == 1 else out

    def _of_age(self) -> tuple[tuple | None, tuple | None, int]:
        """The older state, the younger, which replaces it every half period, and the older's age after this step."""
        if self._age == 2 * self._half:
            return self._younger, None, self._half + 1
        return self._state, self._younger, self._age + 1

    def probabilities(self, frame: Frame, time: float | Sequence[float] | None = None) -> Tensor | None:
        """Like a call, but with softmax over the ``K`` outputs, in float32."""
        out = self(frame, time)
        return None if out is None else out.float().softmax(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The stream's state as a flat dict of tensors, batch first, to save and resume; empty before the first frame.

        ``state_0_h`` is the tensor ``h`` of the first recurrent layer; ``pending (B, C, n, H, W)`` are frames
        collected for the next snippet. With a reset policy it also has what the policy remembers, ``reset_...``, and
        for "every" the second state, ``younger_state_0_h``, and so on.
        """
        values: dict[str, Tensor] = {}
        for prefix, state in (("", self._state), (YOUNGER, self._younger)):
            leaves = [leaf for part in state or () for leaf in part]
            names = [prefix + name for name in self.net.state_names] if leaves else []
            values |= zip(names, leaves, strict=True)
        if self._pending:
            values["pending"] = torch.stack(self._pending, dim=2)
        memory = self._eyes.memory() if self._eyes is not None else {}
        if self._half and self._age:
            memory = {"age": torch.full((self.batch_size,), self._age)}
        values |= {REMEMBERED + name: value for name, value in memory.items()}
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in values.items()}

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """Continues where the stream of `state_dict` was. A reset policy whose memory is missing starts fresh.

        Raises:
            ValueError: names or shapes of another network, number of streams or reset; the stream is left unchanged.
        """
        memory, rest = _apart(values, REMEMBERED)
        younger, rest = _apart(rest, YOUNGER)
        leaves = {name: value for name, value in rest.items() if name != "pending"}
        state = self._checked_state(leaves) if leaves else None
        second = self._checked_state(younger) if younger else None
        age = self._checked_age(memory, second is not None) if self._half else 0
        if self._eyes is not None:
            self._eyes.checked(memory)
        if (younger and not self._half) or (memory and not self._half and self._eyes is None):
            raise ValueError(f"expected the state of a stream with this reset, got {sorted(values)}")
        pending = (
            [value.to(self._runs.device, self._runs.input_type, copy=True) for value in values["pending"].unbind(2)]
            if "pending" in values
            else []
        )
        wanted = (self.batch_size, *self.net.frame_shape[:1])
        if pending and (pending[0].shape[:2] != wanted or len(pending) >= self._snippet):
            shape = tuple(values["pending"].shape)
            raise ValueError(f"expected pending frames {wanted} and less than {self._snippet} of them, got {shape}")
        self._state, self._younger, self._age, self._pending = state, second, age, pending
        if self._eyes is not None:
            self._eyes.recall(memory)

    def _checked_age(self, memory: dict[str, Tensor], younger: bool) -> int:
        """Steps of the older state, after checking that it fits the younger one."""
        if memory and (set(memory) != {"age"} or memory["age"].shape != (self.batch_size,)):
            raise ValueError(f"expected reset_age of shape ({self.batch_size},), got {sorted(memory)}")
        age = int(memory["age"][0]) if memory else 0
        if not 0 <= age <= 2 * self._half or younger != (age > self._half):
            second = "a" if younger else "no"
            raise ValueError(f"expected an age that fits {second} second state, at most {2 * self._half}, got {age}")
        return age

    def _checked_state(self, leaves: dict[str, Tensor]) -> tuple:
        names = self.net.state_names
        if set(leaves) != set(names):
            raise ValueError(f"expected the state {names}, got {sorted(leaves)}")
        rest = iter(names)
        return tuple(
            tuple(_fitted(leaves, next(rest), leaf) for leaf in part) for part in self.net.init_state(self.batch_size)
        )

    @property
    def _snippet(self) -> int:
        """Frames per snippet, 1 for a network of single frames."""
        return frames_a_step(self.net)

    def _collected(self, values: Tensor) -> Tensor | None:
        """Input unchanged; but for a snippet's frames ``(B, C, H, W)`` the snippet, once it is complete."""
        if values.ndim > len(self.net.frame_shape):
            return values
        self._pending.append(values)
        if len(self._pending) < self._snippet:
            return None
        snippet, self._pending = torch.stack(self._pending, dim=2), []  # (B, C, D, H, W)
        return snippet


def _apart(values: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The values whose names begin with ``prefix``, without the prefix, and the others."""
    named = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return named, {name: value for name, value in values.items() if not name.startswith(prefix)}


def _cleared(leaf: Tensor, rows: list[int]) -> Tensor:
    """A copy of a leaf of the state with zeros in the rows of some streams."""
    leaf = leaf.clone()
    leaf[rows] = 0
    return leaf


def _fitted(leaves: dict[str, Tensor], name: str, template: Tensor) -> Tensor:
    """A copy of the leaf called ``name`` on the device and in the dtype of ``template``, if it fits."""
    value = leaves[name]
    # a feature map's size follows the frames, which have not come yet
    if value.ndim != template.ndim or value.shape[:2] != template.shape[:2]:
        raise ValueError(f"expected {name} of shape {tuple(template.shape)}, got {tuple(value.shape)}")
    if value.is_floating_point() != template.is_floating_point() or value.is_complex():
        raise ValueError(f"expected {name} of numbers like {template.dtype}, got {value.dtype}")
    return value.to(template.device, template.dtype, copy=True)
