"""What networks predict for a frame, and for each frame of a source."""

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # imported when first used, as they load PyAV and torchvision
    from prernn.media.source import Address
    from prernn.streaming.sources.source import Source
from dataclasses import dataclass, replace

from prernn.streaming.pace import FOLDER_RATE, Rate, clock_for
from prernn.streaming.stream import Frame, Stream


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network predicts at one moment.

    Attributes:
        index: number of the frame among those that the network saw, from 0: in a stream with a clock
            (`prernn.streaming.pace`) the number of its tick, whether the frame is new or held; otherwise its number in
            the source. For a snippet, that of its last frame.
        time: of that frame, in seconds since the first; for a held frame, the time of the tick.
        label: the most probable label, or its number if the network has no labels.
        probability: of that label.
        latency_ms: milliseconds for all work on the frame after it was read: optical flow, transform and network.
        probabilities: of all labels, float32 ``(K,)`` on the CPU.
        dropped: frames that a live source lost since the previous prediction because they came faster than they were
            processed (`prernn.streaming.sources`); frames that the clock skips don't count.
        reconnected: how often the source was lost and came back since then.
    """

    index: int
    time: float
    label: str
    probability: float
    latency_ms: float
    probabilities: Tensor
    dropped: int = 0
    reconnected: int = 0


def predictions(
    stream: Stream,
    source: "Address | Source",
    *,
    fps: float | None = None,
    rate: Rate = None,
    deinterlace: bool = False,
) -> Iterator[Prediction]:
    """Yields one prediction per frame (per snippet, for a network of snippets) as the frames of ``source`` arrive.

    Args:
        stream: a single stream; it continues from its current state.
        source: anything that `prernn.media.video.read_frames` reads, or a `prernn.Source`, which has its own options;
            it is closed at the end.
        fps: the rate of a folder of frames; None takes the network's, or else 25.
        rate: frames a second at which the network sees the source (`prernn.streaming.pace`); "source" takes frames as
            they come, None takes the rate that the network was trained at according to its recipe.
        deinterlace: deinterlace frames that are marked as interlaced.

    Raises:
        ValueError: several parallel streams, labels that don't fit the outputs; also VideoError, a ValueError, for a
            source that can't be read or breaks off.
    """
    from prernn.streaming.sources.moments import moments
    from prernn.streaming.sources.source import as_source

    pace = clock_for([stream.net], rate)
    dropped, reconnected = 0, 0
    with as_source(source, fps=fps or pace.rate or FOLDER_RATE, deinterlace=deinterlace) as frames:
        for index, moment in enumerate(moments(frames, pace)):
            dropped, reconnected = dropped + moment.dropped, reconnected + moment.reconnected
            if moment.reconnected:
                stream.interrupted()
            prediction = predict([stream], index, moment.time, moment.picture)
            if prediction is not None:
                yield replace(prediction, dropped=dropped, reconnected=reconnected)
                dropped, reconnected = 0, 0


def predict(
    streams: list[Stream],
    index: int,
    time: float,
    frame: Frame,
    more: Mapping[int, Frame] | None = None,
    start: float | None = None,
) -> Prediction | None:
    """What streams predict for a frame together, the mean of their probabilities; None while one collects a snippet.

    Args:
        streams: single streams with the same labels.
        index: number of the frame.
        time: of the frame, in seconds.
        frame: the frame.
        more: other inputs for some of the streams, by their position in the list (optical flow).
        start: value of `time.perf_counter` when the frame had been read, from which the latency counts; None is now.

    Raises:
        ValueError: several parallel streams, labels that don't fit the outputs.
    """
    start = perf_counter() if start is None else start
    answers = [
        (stream, _single(stream).probabilities((more or {}).get(i, frame), time)) for i, stream in enumerate(streams)
    ]
    known = [answer.cpu() for _, answer in answers if answer is not None]  # this waits for the device
    if len(known) < len(streams):
        return None
    probabilities = torch.stack(known).mean(0)  # (K,)
    latency = (perf_counter() - start) * 1e3
    best, labels = int(probabilities.argmax()), streams[0].labels
    if labels is not None and len(labels) != len(probabilities):
        raise ValueError(f"expected {len(probabilities)} labels, one an output, got {len(labels)}")
    label = str(best) if labels is None else str(labels[best])
    if bool(probabilities.isnan().any()):
        label = ""  # no label is the most probable
    return Prediction(index, time, label, float(probabilities[best]), latency, probabilities)


def _single(stream: Stream) -> Stream:
    if stream.batch_size != 1:
        raise ValueError(f"expected one stream for one source, got batch_size={stream.batch_size}")
    return stream
