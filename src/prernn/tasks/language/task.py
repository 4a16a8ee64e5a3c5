"""Language modeling: the next word of a text, word by word."""

import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real, whole
from prernn.streaming.watch import Watcher
from prernn.tasks.language.pieces import Cuts, Piece, pieces
from prernn.tasks.language.text import END, TextError, numbers, vocabulary, words_in, words_of
from prernn.tasks.task import Metrics, Subset, Task, only, valid_steps

PATTERNS: dict[Subset, str] = {"train": "*train*.txt", "val": "*valid*.txt", "test": "*test*.txt"}
"""Names of the three texts, such as ``ptb.train.txt``."""
_NONE = -100  # no word


@dataclass(eq=False)
class Language(Task):
    """The next word after each word of a text, with cross entropy; measured as perplexity over the whole text.

    The root folder contains three texts in UTF-8, one sentence per line, words separated by spaces: one for training,
    whose words are the vocabulary, one for validation, one for the test. The network is a
    `prernn.models.networks.words.Words` with recurrent layers (``method: traditional``), with as many words as the
    vocabulary.

    Training goes through ``streams`` parts of the text in parallel, from piece to piece, and each piece continues from
    the state of the previous one, through which no gradient flows: truncated back-propagation. Evaluation is one stream
    through the whole text, as in use.

    Attributes:
        train: pattern of the training text's file name.
        valid: pattern of the validation text's file name.
        test: pattern of the test text's file name.
        streams: number of parts of the training text that are read in parallel; ``data.batch_size`` of them make a
            batch in each process, so it is this number divided by the number of processes.
        steps: words per piece in training.
        spread: standard deviation of a piece's ends from that; 0 cuts evenly, and always starts at the text's first
            word.
        test_steps: words per piece in evaluation, which affects only memory.
        most: size of the vocabulary; rarer words are replaced by ``<unk>``. None takes all words.
        seed: seed for the places where pieces begin.
    """

    train: str = PATTERNS["train"]
    valid: str = PATTERNS["val"]
    test: str = PATTERNS["test"]
    streams: int = 20
    steps: int = 35
    spread: float = 5.0
    test_steps: int = 500
    most: int | None = None
    seed: int = 0

    name: ClassVar[str] = "language"
    score: ClassVar[tuple[str, Literal["max", "min"]]] = ("perplexity", "min")
    comparable: ClassVar[bool] = False
    input: ClassVar[Literal["pictures", "words", "features"]] = "words"
    keeps_outputs: ClassVar[bool] = False
    goes_on_in_training: ClassVar[bool] = True

    labels: list[str] | None = field(init=False, default=None)
    transform: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name in ("streams", "steps", "test_steps"):
            whole(name, getattr(self, name), 1 if name == "streams" else 2)
        if self.most is not None:
            whole("most", self.most, 3)
        real("spread", self.spread, 0)
        whole("seed", self.seed, 0)
        self._root = Path()
        self._texts: dict[str, Tensor] = {}
        self._cuts, self._epoch = Cuts(0, ()), -1  # and their epoch; -1 is before the first

    def open(self, root: str | Path, spec: Mapping[str, Any]) -> None:
        """Reads the training text, whose words are the vocabulary, and counts the words of all three texts.

        Raises:
            ValueError: no text, or several, for a name; also TextError, a ValueError, for a text that can't be used.
        """
        self._root = Path(root)
        self.labels = vocabulary(self._path("train"), self.most)
        counts = {subset: len(self._text(subset)) for subset in PATTERNS}
        if (least := counts["train"] // self.streams) < 2 * self.steps:
            wanted = f"expected streams of {2 * self.steps} words at least, got {self.streams} of {least}"
            raise TextError(f"{self._path('train')}: {wanted}: fewer streams or steps may help")
        told = ", ".join(f"{subset} {count:,}" for subset, count in counts.items())
        self.remarks = (f"{len(self.labels):,} different words; words and ends of line: {told}",)
        self._cuts, self._epoch = self._even("train"), -1

    def _path(self, subset: Subset) -> Path:
        pattern = {"train": self.train, "val": self.valid, "test": self.test}[subset]
        found = sorted(self._root.glob(pattern))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ValueError(f"{self._root}: expected one text {pattern} of the {subset} words, found {names}")
        return found[0]

    def _text(self, subset: Subset) -> Tensor:
        """Numbers of a text's words ``(N,)``."""
        if subset not in self._texts:
            self._texts[subset] = numbers(self._path(subset), self.labels or [])
        return self._texts[subset]

    @property
    def backbone_options(self) -> dict[str, Any]:
        """How many words there are."""
        return {"words": self.outputs}

    @property
    def has_validation(self) -> bool:
        """True: there is always a validation text."""
        return True

    def begin_epoch(self, epoch: int) -> None:
        """Draws where the epoch's pieces begin."""
        if self.spread and epoch != self._epoch:
            words = len(self._text("train"))
            seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            self._cuts, self._epoch = Cuts.drawn(words, self.streams, self.steps, self.spread, seed), epoch

    def records(self, subset: Subset) -> list[Piece]:
        """The pieces of a subset, one stream after the other."""
        return pieces(str(self._path(subset)), subset, self._streams(subset), len(self._even(subset).bounds) - 1)

    def _streams(self, subset: Subset) -> int:
        return self.streams if subset == "train" else 1

    def _even(self, subset: Subset) -> Cuts:
        """A subset's pieces without randomness."""
        steps = self.steps if subset == "train" else self.test_steps
        return Cuts.even(len(self._text(subset)), self._streams(subset), steps)

    def goes_on(self, record: Piece) -> bool:
        """Whether it is a later piece of its stream."""
        return record.number > 0

    def length(self, record: Piece) -> int:
        """0: parallel pieces have the same length."""
        return 0

    def probe(self, record: Piece) -> None:
        """Does nothing: texts have already been read."""

    def read(
        self, record: Piece, chance: torch.Generator | None, *, tolerate_truncation: bool = False
    ) -> dict[str, Any]:
        """One piece: ``input (T, 1)`` int64, the words; ``target (T,)``, those that follow; ``goes_on``; ``way``.

        The first word of a text follows an end of line.
        """
        text = self._text(record.subset)
        cuts = self._even(record.subset) if chance is None else self._cuts
        begin, end = cuts.bounds[record.number : record.number + 2]
        places = cuts.start + record.row * (len(text) // self._streams(record.subset)) + torch.arange(begin - 1, end)
        words = text[places % len(text)]
        if record.subset != "train" and record.number == 0:
            words[0] = self._end
        return {
            "input": words[:-1, None],
            "target": words[1:],
            "goes_on": int(record.number > 0),
            "way": record.row,
        }

    @property
    def _end(self) -> int:
        return (self.labels or []).index(END)

    def loss(self, out: Tensor, batch: dict[str, Any]) -> Tensor:
        """Mean of ``-ln p(word)`` over the words of a batch."""
        target = batch["target"].masked_fill(~valid_steps(batch["lengths"], out.shape[1]), _NONE)
        scores = out.transpose(0, 1).flatten(0, 1)  # time first, as networks lay them out, which avoids a large copy
        return F.cross_entropy(scores, target.T.flatten(), ignore_index=_NONE)

    def metrics(self) -> Metrics:
        """See `prernn.tasks.language.metrics.WordMetrics`."""
        from prernn.tasks.language.metrics import WordMetrics

        return WordMetrics()

    def predictions(self, out: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One row per word: ``path``, ``word``, its ``probability``, and the word that was the most probable."""
        names = self.labels or []
        return [
            {"path": path, "word": names[true], "probability": p, "most_probable": names[said]}
            for row, path in enumerate(batch["path"])
            for true, p, said in self._foretold(out[row], batch["target"][row], int(batch["lengths"][row]))
        ]

    def report(self, results: dict[str, Any], root: Path) -> dict[str, Any]:
        """Everything but the vocabulary, which is in the network."""
        return {name: value for name, value in results.items() if name != "labels"}

    def watcher(self, *nets: SequenceNetwork, **options: Any) -> Watcher:
        """The probability of each word of a text, as it comes."""
        from prernn.tasks.language.watcher import WordWatcher

        return WordWatcher(only(nets))

    def frames(self, source: str) -> Generator[tuple[float, Any], None, None]:
        """The words of a text file, or of standard input (``-``), with the seconds since the first line."""
        begin = perf_counter()
        for word in words_in(sys.stdin, "standard input") if source == "-" else words_of(source):
            yield perf_counter() - begin, word

    def _foretold(self, out: Tensor, target: Tensor, steps: int) -> list[tuple[int, float, int]]:
        scores, target = out[:steps].float(), target[:steps]
        probability = scores.softmax(-1).gather(1, target[:, None])[:, 0]
        return list(zip(target.tolist(), probability.tolist(), scores.argmax(-1).tolist(), strict=True))
