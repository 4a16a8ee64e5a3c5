"""A recurrent network over a live stream: one frame in, one answer out, at constant cost and memory.

`Stream` holds the state of a stream between frames. `predictions` and `stream_video` run one over anything that
`prernn.video` reads.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from torch import Tensor

from prernn.network import RecurrentNetwork
from prernn.prediction import Prediction, annotate, csv_rows, write_csv

__all__ = ["Prediction", "Stream", "annotate", "predictions", "stream_video", "write_csv"]

if TYPE_CHECKING:  # at run time they, and with them PyAV and torchvision, load when first used
    from prernn.transforms import TransformSpec
    from prernn.video import Source

Frame = np.ndarray | Tensor
FrameTransform = Callable[[Frame], Tensor]


class Stream:
    """A stream through a network: call it with a frame, get the output of that moment.

    ``stream(frame)`` takes uint8 ``(H, W, 3)`` RGB through the network's transform, or a float ``(C, H, W)``
    (snippets ``(C, D, H, W)``) as it is, as an array or a tensor, and gives what `RecurrentNetwork.step` gives,
    ``(K,)``, on the network's device. With ``batch_size`` B > 1, B streams run side by side: frames and outputs
    have a leading dimension B. Nothing is recorded for gradients.

    A network of snippets collects uint8 frames: it gives None until ``D`` have come, then the output of that
    snippet, then starts to collect the next; snippets do not overlap.

    The network is not copied, and may be shared by many streams: each holds a state of its own. A network in
    training mode runs in evaluation mode here and is handed back in training mode.

    Args:
        net: the network.
        transform: what makes uint8 frames into input: a TransformSpec, its dict, or a function from uint8
            ``(H, W, 3)`` to float ``(C, H, W)``. None takes ``net.recipe["transform"]``.
        batch_size: number of streams side by side.

    Raises:
        ValueError: ``batch_size < 1``, a transform with unknown keys.

    Attributes:
        labels: names of the ``K`` outputs from the network's recipe, or None.
    """

    def __init__(
        self,
        net: RecurrentNetwork,
        *,
        transform: "TransformSpec | Mapping[str, Any] | FrameTransform | None" = None,
        batch_size: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"expected a batch of at least 1 stream, got {batch_size}")
        self.net, self.batch_size = net, batch_size
        self.labels: list[str] | None = net.recipe.get("labels")
        self._transform = _frame_transform(net.recipe.get("transform") if transform is None else transform)
        self.reset()

    def reset(self) -> None:
        """Forgets what the stream has seen."""
        self._state: tuple | None = None  # None until the first frame, whose size the state may depend on
        self._pending: list[Tensor] = []  # (B, C, H, W) frames of the snippet to come

    def __call__(self, frame: Frame) -> Tensor | None:
        """The output for the next frame, ``(K,)``; with several streams ``(B, K)``; None within a snippet.

        Raises:
            ValueError: a dtype or shape that doesn't fit, uint8 frames for a network without a transform.
        """
        with torch.inference_mode(), _evaluating(self.net):
            batch = self._batch(frame)
            if batch is None:
                return None
            out, self._state = self.net.step(batch, self._state)
        return out[0] if self.batch_size == 1 else out

    def probabilities(self, frame: Frame) -> Tensor | None:
        """As a call, but with softmax over the ``K`` outputs, in float32."""
        out = self(frame)
        return None if out is None else out.float().softmax(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The stream's state as a flat dict of tensors, batch first, to save and resume; empty before a frame.

        ``state_0_h`` is the tensor ``h`` of the first recurrent layer; ``pending (B, C, n, H, W)`` are frames
        collected for the next snippet.
        """
        leaves = [leaf for part in self._state or () for leaf in part]
        values = dict(zip(self.net.state_names, leaves, strict=True)) if leaves else {}
        if self._pending:
            values["pending"] = torch.stack(self._pending, dim=2)
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in values.items()}

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """Goes on where the stream of `state_dict` was.

        Raises:
            ValueError: names or shapes of another network or number of streams; the stream is left as it was.
        """
        leaves = {name: value for name, value in values.items() if name != "pending"}
        state = self._checked_state(leaves) if leaves else None
        pending = [value.clone() for value in values["pending"].unbind(2)] if "pending" in values else []
        wanted = (self.batch_size, *self.net.frame_shape[:1])
        if pending and (pending[0].shape[:2] != wanted or len(pending) >= self._snippet):
            shape = tuple(values["pending"].shape)
            raise ValueError(f"expected pending frames {wanted} and less than {self._snippet} of them, got {shape}")
        self._state, self._pending = state, pending

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
        return self.net.frame_shape[1] if len(self.net.frame_shape) == 4 else 1

    def _batch(self, frame: Frame) -> Tensor | None:
        """The frame as network input ``(B, C, H, W)`` or ``(B, C, D, H, W)``, None within a snippet."""
        # copied, as arrays may be read-only or run backwards in memory (a BGR picture turned to RGB)
        value = torch.from_numpy(np.array(frame, order="C")) if isinstance(frame, np.ndarray) else frame
        if not isinstance(value, Tensor):
            raise ValueError(f"expected a frame as array or tensor, got {type(frame).__name__}")
        if self.batch_size == 1:
            value = value.unsqueeze(0)
        elif value.ndim == 0 or value.shape[0] != self.batch_size:
            raise ValueError(f"expected frames of {self.batch_size} streams, got shape {tuple(value.shape)}")
        batch = self._collect(value) if value.dtype == torch.uint8 else value
        if batch is None:
            return None
        shape = self.net.frame_shape
        if not batch.is_floating_point() or batch.ndim != len(shape) + 1 or batch.shape[1] != shape[0]:
            wanted = f"uint8 (H, W, 3) or float ({shape[0]}, {'D, ' if len(shape) == 4 else ''}H, W)"
            raise ValueError(f"expected a frame {wanted}, got {batch.dtype} {tuple(batch.shape[1:])}")
        weight = next(self.net.parameters())
        return batch.to(weight.device, weight.dtype)

    def _collect(self, pictures: Tensor) -> Tensor | None:
        """uint8 ``(B, H, W, 3)`` to input; a snippet's frames are kept until it is full."""
        if self._transform is None:
            raise ValueError(
                "expected a float frame, got uint8: the network's recipe has no transform for it; pass transform="
            )
        frames = torch.stack([self._transform(picture) for picture in pictures])  # (B, C, H, W)
        if len(self.net.frame_shape) != 4:
            return frames
        if self._pending and self._pending[0].shape != frames.shape:
            expected, got = tuple(self._pending[0].shape), tuple(frames.shape)
            raise ValueError(f"expected frames {expected} as before in this snippet, got {got}")
        self._pending.append(frames)
        if len(self._pending) < self._snippet:
            return None
        snippet, self._pending = torch.stack(self._pending, dim=2), []  # (B, C, D, H, W)
        return snippet


def _frame_transform(transform: Any) -> FrameTransform | None:
    """A transform as a function, whatever form it came in."""
    if transform is None or callable(transform):
        return transform
    from prernn.transforms import TransformSpec, frame_transform

    return frame_transform(TransformSpec.from_dict(dict(transform)) if isinstance(transform, Mapping) else transform)


@contextlib.contextmanager
def _evaluating(net: RecurrentNetwork) -> Iterator[None]:
    """Evaluation mode for a while; modules that were in training mode return to it."""
    training = [module for module in net.modules() if module.training] if net.training else []
    if training:
        net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _fitted(leaves: dict[str, Tensor], name: str, template: Tensor) -> Tensor:
    """A copy of the leaf called ``name`` on the device and in the dtype of ``template``, once it is known to fit."""
    value = leaves[name]
    # a feature map's size follows the frames, which are not here yet
    if value.ndim != template.ndim or value.shape[:2] != template.shape[:2]:
        raise ValueError(f"expected {name} of shape {tuple(template.shape)}, got {tuple(value.shape)}")
    return value.to(template.device, template.dtype, copy=True)


def predictions(stream: Stream, source: "Source", *, fps: float = 25.0) -> Iterator[Prediction]:
    """Yields a prediction a frame (a snippet, for a network of snippets) as the frames of ``source`` arrive.

    Args:
        stream: a single stream; it goes on from the state it is in.
        source: anything that `prernn.video.read_frames` reads.
        fps: the rate of a folder of frames.

    Raises:
        ValueError: several streams side by side, labels that don't fit the outputs; VideoError, which is one,
            for a source that can't be read or breaks off.
    """
    from prernn.video import read_frames

    for index, (time, frame) in enumerate(read_frames(source, fps=fps)):
        prediction = _predict(stream, index, time, frame)
        if prediction is not None:
            yield prediction


def _predict(stream: Stream, index: int, time: float, frame: np.ndarray) -> Prediction | None:
    if stream.batch_size != 1:
        raise ValueError(f"expected one stream for one source, got batch_size={stream.batch_size}")
    start = perf_counter()
    probabilities = stream.probabilities(frame)
    if probabilities is None:
        return None
    probabilities = probabilities.cpu()  # waits for the device
    latency = (perf_counter() - start) * 1e3
    best = int(probabilities.argmax())
    if stream.labels is not None and len(stream.labels) != len(probabilities):
        raise ValueError(f"expected {len(probabilities)} labels, one an output, got {len(stream.labels)}")
    label = str(best) if stream.labels is None else str(stream.labels[best])
    return Prediction(index, time, label, float(probabilities[best]), latency, probabilities)


def stream_video(
    net: RecurrentNetwork | Stream,
    source: "Source",
    *,
    csv: str | os.PathLike | TextIO | None = None,
    video: str | os.PathLike | None = None,
    on_prediction: Callable[[Prediction], None] | None = None,
    limit: int | None = None,
    fps: float = 25.0,
) -> int:
    """Runs a network over a source in one pass, at constant memory, and returns how many frames it was.

    Ctrl-C ends it after the current frame, with complete files (pressed twice it interrupts at once). A source
    that breaks off leaves the files of the frames before, then raises.

    Args:
        net: the network, or a stream to go on from.
        source: anything that `prernn.video.read_frames` reads.
        csv: where to write rows, see `write_csv`.
        video: an mp4 with the annotated frames, at the mean rate of the source.
        on_prediction: called with each prediction as it arrives.
        limit: stop after so many frames.
        fps: the rate of a folder of frames.

    Raises:
        ValueError: ``limit < 1``, a network without a transform; VideoError, which is one, for a source that
            can't be read or breaks off.
        OSError: a file can't be written.
    """
    from prernn import video as videos

    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 frame, got {limit}")
    stream = net if isinstance(net, Stream) else Stream(net)
    broken: list[videos.VideoError] = []
    reader = videos.read_frames(source, fps=fps)
    with contextlib.closing(reader), contextlib.ExitStack() as stack:  # type: ignore[type-var]  # a generator
        frames = itertools.chain([next(reader)], _until_broken(reader, broken))  # raises where nothing is readable
        receivers = [stack.enter_context(csv_rows(csv))] if csv is not None else []
        receivers += [on_prediction] if on_prediction is not None else []
        interrupted = stack.enter_context(_noting_interrupt())
        results = _run(stream, itertools.islice(frames, limit), receivers, interrupted)
        if video is None:
            count = sum(1 for _ in results)
        else:
            rate, results = _output_rate(source, fps, results)
            drawn = (frame if latest is None else annotate(frame, latest) for _, frame, latest in results)
            count = videos.write_video(Path(video), drawn, rate)
    if broken:
        raise broken[0]
    return count


Result = tuple[float, np.ndarray, Prediction | None]


def _run(
    stream: Stream,
    frames: Iterable[tuple[float, np.ndarray]],
    receivers: list[Callable[[Prediction], None]],
    interrupted: Callable[[], bool],
) -> Iterator[Result]:
    """Yields the time and image of each frame and the latest prediction, once the receivers have it."""
    latest = None
    for index, (time, frame) in enumerate(frames):
        prediction = _predict(stream, index, time, frame)
        if prediction is not None:
            latest = prediction
            for receive in receivers:
                receive(prediction)
        yield time, frame, latest
        if interrupted():
            return


def _until_broken(frames: Iterator, broken: list) -> Iterator:
    """The frames up to where the source breaks off; the error goes into ``broken``."""
    from prernn.video import VideoError

    try:
        yield from frames
    except VideoError as error:
        broken.append(error)


def _output_rate(source: "Source", fps: float, results: Iterator[Result]) -> tuple[float, Iterator[Result]]:
    """Mean frames per second of the source, and the results, none of which is lost."""
    from prernn.video import probe

    if not isinstance(source, int) and (os.path.isfile(source) or os.path.isdir(source)):
        return probe(source, fps=fps).fps, results
    head = list(itertools.islice(results, 10))  # a live source may not open twice: its first frames tell
    span = head[-1][0] - head[0][0]
    return (len(head) - 1) / span if span > 0 else fps, itertools.chain(head, results)


@contextlib.contextmanager
def _noting_interrupt() -> Iterator[Callable[[], bool]]:
    """Says whether Ctrl-C was pressed, which interrupts nothing here the first time."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: False  # ignored by the caller, or not ours to take
        return
    pressed = threading.Event()

    def note(number, stack) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
