"""A recurrent network over a live stream: one frame in, one answer out, at constant cost and memory.

`Stream` holds the state of a stream between frames. `predictions` runs one over anything that `prernn.media.video`
reads.
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

if TYPE_CHECKING:  # at run time they, and with them PyAV and torchvision, load when first used
    from prernn.media.transforms import TransformSpec


YOUNGER, REMEMBERED = "younger_", "reset_"
"""What the names begin with of a second state, and of what a reset policy remembers, in a saved stream."""


class Stream:
    """A stream through a network: call it with a frame, get the output of that moment.

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

    ``stream(frame)`` takes uint8 ``(H, W, 3)`` RGB through the network's transform, or a float ``(C, H, W)``
    (snippets ``(C, D, H, W)``; the number of a word, int64 ``(1,)``) as it is, as an array or a tensor, and gives what
    `SequenceNetwork.step` gives, ``(K,)``, on the network's device. With ``batch_size`` B > 1, B streams run side by
    side: frames and outputs have a leading dimension B. Nothing is recorded for gradients.

    A network of snippets collects uint8 frames: it gives None until ``D`` have come, then the output of that
    snippet, then starts to collect the next; snippets do not overlap.

    The network may be shared by many streams: each holds a state of its own. A network in training mode runs in
    evaluation mode here and is handed back in training mode. What computes the steps is the engine:

    - "torch": the network itself, its convolutions laid out with the channels last and fused with what follows them
      (`prernn.engines.fused_convolutions`). It follows the network when its weights change, but for changes through
      ``.data``, which torch does not count. Without a ``precision`` large weights of a quantized network are read as
      their integers (`prernn.engines.torch_engine`).
    - "onnxruntime", "openvino": of a copy of the network as it is now, exported once and kept in a cache
      (``$PRERNN_CACHE``, ``~/.cache/prernn``). The CPU alone.
    - "auto": the one of these that is installed, agrees with the network, and is the fastest for a frame on this
      machine, which is measured once; ``stream.engine`` says which.

    Outputs are the same up to rounding, and the state too: one stream's ``state_dict()`` goes on in any engine.

    Where ``reset`` says so (`prernn.streaming.resets`), the state starts anew by itself: streams side by side each by
    their own pictures. Of a frame that is no uint8 picture, as optical flow, the policy has to be shown the picture
    first, ``stream.look(picture, time)``; ``idle`` wants times, ``stream(frame, time)``.

    Args:
        net: the network, a run folder or checkpoint of one, or a step that `prernn.export` wrote.
        engine: "torch", "onnxruntime", "openvino" or "auto"; None is "torch", or what an exported file is for.
        precision: "float32" (also None, see "torch"); "bfloat16" or "float16" of everything feedforward; "int8", of
            weights or of all products: as engine and processor can (`prernn.engines.opening`).
        threads: that a step may take; None leaves it to the engine. Of torch they are the whole process's.
        transform: what makes uint8 frames into input: a TransformSpec, its dict, or a function from uint8
            ``(H, W, 3)`` to float ``(C, H, W)``. None takes ``net.recipe.transform``.
        batch_size: number of streams side by side.
        reset: "never", "cut", "idle:SECONDS" or "every:N"; None takes ``net.recipe.reset``, which is never by default.

    Attributes:
        net: the network.
        engine: that computes it, "torch", "onnxruntime" or "openvino".
        labels: names of the ``K`` outputs from the network's recipe, or None.

    Raises:
        ValueError: ``batch_size < 1``, an unknown engine or precision, a file that is none of ours, a transform with
            unknown keys, an unknown reset, an N that is no whole number of pairs of snippets.
        NotImplementedError: "cut" or "idle" for snippets of several streams, which are collected together; a precision
            that engine or processor lacks.
        ImportError: the engine is not installed.
    """

    _eyes: Eyes | None = None  # what looks for places to start anew
    _half = 0  # steps after which a second state starts, see ``every:N``; 0 for never
    _shown = False  # whether someone shows the policy its pictures

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
        """`_eyes` and `_half` for a policy."""
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
        self._diverged = False  # said once
        self._state: tuple | None = None  # None until the first frame, whose size the state may depend on
        self._younger: tuple | None = None  # which takes the state's place, see ``every:N``
        self._age = 0  # steps since the first frame, up to where the younger state takes over for the first time
        if self._eyes is not None:
            self._eyes.forget()
        self._pending: list[Tensor] = []  # (B, C, H, W) frames of the snippet to come

    def interrupted(self) -> None:
        """Says that pictures are missing before the next, as after a lost connection: for the reset "cut" that is one.

        For "idle" it is the time of the next frame that counts; "never" and "every" go on.
        """
        if self._eyes is not None:
            self._eyes.interrupted()

    def look(self, picture: Frame, time: float | Sequence[float] | None = None) -> list[int]:
        """Shows the reset policy the picture to come; gives the numbers of the streams that start anew with it.

        ``stream(frame)`` does so by itself with its uint8 pictures, until this is called for the first time.

        Args:
            picture: uint8 ``(H, W, 3)``; with several streams ``(B, H, W, 3)``.
            time: in seconds, for "idle"; one for all streams, or one each.

        Raises:
            ValueError: no time, where the policy needs one.
            NotImplementedError: something else than a picture, where the policy needs one.
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
        elif rows and self._state is not None:  # zero is the state to start from
            with torch.inference_mode():
                self._state = tuple(tuple(_cleared(leaf, rows) for leaf in part) for part in self._state)
        return rows

    def __call__(self, frame: Frame, time: float | Sequence[float] | None = None) -> Tensor | None:
        """The output for the next frame, ``(K,)``; with several streams ``(B, K)``; None within a snippet.

        Args:
            frame: the frame.
            time: of it in seconds, for the reset "idle".

        Raises:
            ValueError: a dtype or shape that doesn't fit, uint8 frames for a network without a transform, no time for
                "idle". The stream is as it was.
            NotImplementedError: a frame that is no picture, where the reset needs one.
        """
        with torch.inference_mode(), evaluating(self.net):
            steps, answer = self.steps(self.prepared(frame, time)), None
            try:
                while True:
                    answer = self._runs.step(*steps.send(answer))
            except StopIteration as end:
                return end.value

    def prepared(self, frame: Frame, time: float | Sequence[float] | None = None) -> tuple[Tensor, list[Seen] | None]:
        """What `steps` takes of a frame; raises as a call does. The stream knows nothing of the frame yet."""
        values = self._input(frame)
        if self._pending and values.ndim == self._pending[0].ndim and values.shape != self._pending[0].shape:
            expected, got = tuple(self._pending[0].shape), tuple(values.shape)
            raise ValueError(f"expected frames {expected} as before in this snippet, got {got}")
        return values, None if self._eyes is None or self._shown else self._seen(frame, time)

    def steps(self, prepared: tuple[Tensor, list[Seen] | None]) -> Generator[Request, Any, Tensor | None]:
        """A frame's way through the stream, without the network: so many streams can ask one network together.

        Yields frame and state for `SequenceNetwork.step`, wants its output and next state sent, and returns what a
        call returns. To be run in inference mode.
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
        """As a call, but with softmax over the ``K`` outputs, in float32."""
        out = self(frame, time)
        return None if out is None else out.float().softmax(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The stream's state as a flat dict of tensors, batch first, to save and resume; empty before a frame.

        ``state_0_h`` is the tensor ``h`` of the first recurrent layer; ``pending (B, C, n, H, W)`` are frames
        collected for the next snippet. With a reset there are what it remembers, ``reset_...``, and for "every" the
        second state, ``younger_state_0_h``, and so on.
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
        """Goes on where the stream of `state_dict` was. Without the memory of a reset, that starts as new.

        Raises:
            ValueError: names or shapes of another network, number of streams or reset; the stream is left as it was.
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
        """Steps of the older state, once it is known to fit the younger one."""
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
        """Frames a snippet, 1 for a network of single frames."""
        return frames_a_step(self.net)

    def _collected(self, values: Tensor) -> Tensor | None:
        """Input as it is; but of a snippet's frames ``(B, C, H, W)`` the snippet, once it is full."""
        if values.ndim > len(self.net.frame_shape):
            return values
        self._pending.append(values)
        if len(self._pending) < self._snippet:
            return None
        snippet, self._pending = torch.stack(self._pending, dim=2), []  # (B, C, D, H, W)
        return snippet


def _apart(values: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The values whose names begin with ``prefix``, without it, and the others."""
    named = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return named, {name: value for name, value in values.items() if not name.startswith(prefix)}


def _cleared(leaf: Tensor, rows: list[int]) -> Tensor:
    """A copy of a leaf of the state with zeros for some streams."""
    leaf = leaf.clone()
    leaf[rows] = 0
    return leaf


def _fitted(leaves: dict[str, Tensor], name: str, template: Tensor) -> Tensor:
    """A copy of the leaf called ``name`` on the device and in the dtype of ``template``, once it is known to fit."""
    value = leaves[name]
    # a feature map's size follows the frames, which are not here yet
    if value.ndim != template.ndim or value.shape[:2] != template.shape[:2]:
        raise ValueError(f"expected {name} of shape {tuple(template.shape)}, got {tuple(value.shape)}")
    if value.is_floating_point() != template.is_floating_point() or value.is_complex():
        raise ValueError(f"expected {name} of numbers like {template.dtype}, got {value.dtype}")
    return value.to(template.device, template.dtype, copy=True)
