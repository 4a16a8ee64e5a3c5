"""How well, and how early, gestures are recognized and found: metrics of a network trained with CTC."""

from typing import Any

from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.text import WordErrorRate

from prernn.tasks.classification import answers, class_accuracies
from prernn.tasks.events.ctc_decoders import Decoder
from prernn.tasks.events.event_metrics import EventMetrics
from prernn.tasks.events.event_scores import Interval
from prernn.tasks.gesture.events import begins_and_ends, classified, detections, seen_frames, steps_of


class GestureMetrics(nn.Module):
    """Running metrics of outputs ``(B, T, K)``; torchmetrics sums them over batches and processes.

    Classification asks for the gesture in each annotated gesture's part of the video, cut halfway between neighbors:
    the best of `ctc_decoders.label_scores`. The other metrics are of the events that ``decoder`` reports step by step.
    An event is seen with the last frame of the snippet that reported it. It detects the first gesture of its label that
    was not detected yet and in which, or in the ``tolerance`` frames after it, it is seen; else it is a false alarm.

    Args:
        gestures: K - 1, at least 2.
        decoder: finds the events.
        snippet: number of frames of a step.
        tolerance: number of frames.
        temperature: divides the outputs before the softmax.

    Raises:
        ValueError: fewer than 2 gestures.
    """

    def __init__(
        self, gestures: int, decoder: Decoder, *, snippet: int = 8, tolerance: int = 16, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if gestures < 2:
            raise ValueError(f"gestures: expected at least 2, got {gestures}")
        self.decoder, self.snippet, self.tolerance = decoder, snippet, tolerance
        self.temperature = temperature
        self.gestures = gestures
        self.confusion = MulticlassConfusionMatrix(gestures + 1)  # plus one for outputs that are no numbers
        self.edits = WordErrorRate()
        self.true, self.hits, self.alarms = SumMetric(), SumMetric(), SumMetric()  # gestures, and events
        self.delays, self.minutes = SumMetric(), SumMetric()  # frames, and minutes of video
        self.spans = EventMetrics()

    def update(self, out: Tensor, batch: dict[str, Any]) -> None:
        """Adds a batch; an empty one adds nothing. Raises ValueError for outputs of another K."""
        if len(out) == 0:
            return
        if out.shape[-1] != self.gestures + 1:
            raise ValueError(f"expected {self.gestures + 1} outputs, got {out.shape[-1]}")
        for video, scores in enumerate(classified(out, batch, self.snippet, self.temperature)):
            target = batch["target"][video]
            true = target[target > 0]
            device = self.confusion.device
            self.confusion.update(answers(scores).to(device), true.to(device) - 1)
            events, ends = begins_and_ends(self.decoder.events(steps_of(out, batch, video, self.temperature)))
            self.edits.update(_sentence(event.label for event in events), _sentence(true.tolist()))
            frames = int(batch["frames"][video])
            seen = [(event.label, seen_frames(event, self.snippet, frames)) for event in events]
            intervals = batch["intervals"][video][: len(true)].tolist()
            delays = detections(seen, true.tolist(), intervals, self.tolerance)
            self.true.update(float(len(true)))
            self.hits.update(float(len(delays)))
            self.delays.update(float(sum(delays)))
            self.alarms.update(float(len(events) - len(delays)))
            found = [Interval(e.label, e.begin * self.snippet, min((e.end or 0) * self.snippet, frames)) for e in ends]
            self.spans.update(
                found, [Interval(*one) for one in zip(true.tolist(), *zip(*intervals, strict=True), strict=True)]
            )
            self.minutes.update(frames / float(batch["fps"][video]) / 60)

    def compute(self) -> dict[str, Tensor]:
        """Scalars, NaN if there is nothing to count, and two arrays over the gestures.

        ``accuracy``: share of gestures classified correctly; ``mean_class_accuracy``: mean of each gesture's accuracy.
        ``edit_distance``: insertions, deletions and substitutions that turn the decoded labels into the true ones, per
        true gesture. ``detected``: share of the gestures. ``delay``: mean number of frames from a gesture's begin to
        its detection. ``false_alarms``: per minute of video. ``event_f1_10``, ``event_f1_25``, ``event_f1_50`` and
        ``mean_iou``: how well begin and end agree (`event_metrics.EventMetrics`). ``class_accuracy``
        ``(K - 1,)``; ``confusion`` ``(K - 1, K - 1)``, true gestures as rows. A gesture in a video whose outputs are
        not numbers counts as wrong and undetected, and is in no column.
        """
        of_classes = class_accuracies(self.confusion.compute()[:-1])
        hits = self.hits.compute()
        return {
            "accuracy": of_classes.pop("accuracy"),
            "edit_distance": self.edits.compute(),
            "detected": hits / self.true.compute(),
            "delay": self.delays.compute() / hits,
            "false_alarms": self.alarms.compute() / self.minutes.compute(),
            **self.spans.compute(),
            **of_classes,
        }

    def reset(self) -> None:
        """Forgets all batches."""
        for metric in self.children():
            metric.reset()  # type: ignore[operator]  # a Metric each


def _sentence(labels: Any) -> str:
    return " ".join(map(str, labels))
