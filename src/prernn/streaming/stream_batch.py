"""Many streams through one network, each at its own time: they join, leave and are reset independently."""

import itertools
import os
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prernn.conversion.modes import evaluating
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.engines.opening import opened
from prernn.engines.together import Answer, Request, step_together
from prernn.streaming.frame_input import Frame, FrameTransform
from prernn.streaming.stream import Stream

if TYPE_CHECKING:
    from prernn.media.transforms import TransformSpec


class StreamBatch:
    """Streams that share the network's steps: each outputs what a separate `prernn.Stream` would.

    A step takes frames of any of the streams, and the network processes those of one size as one batch, which costs
    less than one after the other. Each stream has its own state, memory of the reset policy and unfinished snippet.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn, "fc6", cell="gru", outputs=3)
        >>> streams = prernn.StreamBatch(net, transform={"size": 16})
        >>> door, yard = streams.join(), streams.join()
        >>> picture = torch.zeros(48, 64, 3, dtype=torch.uint8)
        >>> {key: tuple(out.shape) for key, out in streams.step({door: picture, yard: picture}).items()}
        {0: (3,), 1: (3,)}
        >>> streams.leave(door)
        >>> list(streams.step({yard: picture}))
        [1]

    Args:
        net: as in `prernn.Stream`, like ``engine``, ``precision``, ``threads``, ``transform`` and ``reset``.
        engine: what computes the steps.
        precision: of its arithmetic.
        threads: number of threads that a step may use.
        transform: what turns uint8 frames into input.
        reset: when the state of a stream is reset automatically.

    Attributes:
        net: the network.
        engine: the engine that computes it.
        labels: names of the ``K`` outputs from the network's recipe, or None.

    Raises:
        ValueError, NotImplementedError, ImportError: as in `prernn.Stream`.
    """

    def __init__(
        self,
        net: SequenceNetwork | str | os.PathLike[str],
        engine: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        *,
        transform: "TransformSpec | Mapping[str, Any] | FrameTransform | None" = None,
        reset: str | None = None,
    ):
        self._runs = opened(net, engine, precision, threads)
        self._options: dict[str, Any] = {"transform": transform, "reset": reset}
        first = Stream(self._runs, **self._options)  # refuses at once what would not work for any stream
        self.net, self.engine, self.labels = first.net, first.engine, first.labels
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count()

    def join(self, state: Mapping[str, Tensor] | None = None) -> int:
        """Adds a stream, starting from zero or from what `state_dict` returned; returns its number, never reused."""
        stream = Stream(self._runs, **self._options)
        if state is not None:
            stream.load_state_dict(state)
        number = next(self._numbers)
        self._streams[number] = stream
        return number

    def leave(self, number: int) -> None:
        """Removes a stream. Raises ValueError if there is none of this number, as all methods do."""
        self._stream(number)
        del self._streams[number]

    def reset(self, number: int) -> None:
        """Resets a stream; the others are unaffected."""
        self._stream(number).reset()

    def look(self, number: int, picture: Frame, time: float | None = None) -> bool:
        """Shows a stream's reset policy its next picture (`Stream.look`); returns whether it is reset before it."""
        return bool(self._stream(number).look(picture, time))

    def interrupted(self, number: int) -> None:
        """Tells a stream that pictures are missing before its next, as after a lost camera (`Stream.interrupted`)."""
        self._stream(number).interrupted()

    def step(self, frames: Mapping[int, Frame], times: Mapping[int, float] | None = None) -> dict[int, Tensor | None]:
        """The outputs ``(K,)`` of streams for their next frames, in the order of ``frames``; None within a snippet.

        Args:
            frames: by number, one frame of each stream that has one; the others wait.
            times: their times in seconds, for the reset "idle".

        Raises:
            ValueError, NotImplementedError: no such stream, or a frame that a `prernn.Stream` refuses; the message
                names the stream, and all streams are left unchanged.
        """
        with torch.inference_mode(), evaluating(self.net):
            prepared = {}
            for number, frame in frames.items():
                stream = self._stream(number)
                try:
                    prepared[number] = stream.prepared(frame, (times or {}).get(number))
                except (ValueError, NotImplementedError) as error:
                    raise type(error)(f"stream {number}: {error}") from error
            answers = _advance(self._runs, {n: self._streams[n].steps(ready) for n, ready in prepared.items()})
        return {number: answers[number] for number in frames}

    def state_dict(self, number: int) -> dict[str, Tensor]:
        """A stream's state, from which any `prernn.Stream` of the network can continue."""
        return self._stream(number).state_dict()

    def load_state_dict(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Lets a stream continue where another was. Raises ValueError for the state of another network or reset."""
        self._stream(number).load_state_dict(state)

    def _stream(self, number: int) -> Stream:
        if number not in self._streams:
            raise ValueError(f"expected the number of a stream that has joined, one of {list(self)}, got {number!r}")
        return self._streams[number]

    def __contains__(self, number: object) -> bool:
        return number in self._streams

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._streams))

    def __len__(self) -> int:
        return len(self._streams)


def _advance(net: SequenceNetwork, streams: Mapping[int, Generator[Request, Answer, Any]]) -> dict[int, Any]:
    """Runs the steps of streams (`Stream.steps`) in parallel to their ends; returns what each returns."""
    waiting: dict[int, Request] = {}
    returned: dict[int, Any] = {}
    answers: Mapping[int, Answer | None] = dict.fromkeys(streams)
    while answers:
        waiting = {}
        for key, answer in answers.items():
            try:
                waiting[key] = streams[key].send(answer)  # type: ignore[arg-type]  # the first is None, by Python's rule
            except StopIteration as end:
                returned[key] = end.value
        answers = dict(zip(waiting, step_together(net, list(waiting.values())), strict=True)) if waiting else {}
    return returned
