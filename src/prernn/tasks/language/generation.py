"""A network writes: each word is drawn from its prediction, and read as the next input."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prernn.conversion.sequence_network import SequenceNetwork
from prernn.layers.arguments import real
from prernn.streaming.stream import Stream
from prernn.tasks.language.text import END, UNKNOWN, encode


def written(
    net: SequenceNetwork, begin: Sequence[str] = (), *, temperature: float = 1.0, seed: int = 0
) -> Iterator[str]:
    """An endless sequence of words that follow ``begin``, at constant cost per word.

    A word is drawn with the probability ``softmax(scores / temperature)``, excluding `UNKNOWN`, which is not a word.

    Args:
        net: a network trained on `prernn.tasks.Language`.
        begin: the words before; they follow an end of line.
        temperature: 0 takes the most probable word; 1 draws by the network's probabilities; higher is more random.
        seed: seed of the draws.

    Raises:
        ValueError: a temperature below 0; a network without words; TextError for a word that it does not know.
    """
    real("temperature", temperature, 0)
    names = net.recipe.labels or []
    if END not in names:
        raise ValueError(
            f"expected a network trained on text, with words that {END} is one of, got {len(names)} labels"
        )
    known = {name: number for number, name in enumerate(names)}
    barred = known.get(UNKNOWN)
    stream, chance = Stream(net), torch.Generator().manual_seed(seed)
    for number in encode([END, *begin], known, "begin"):
        scores = step(stream, number)

    def rest(scores: Tensor) -> Iterator[str]:
        while True:
            if barred is not None:
                scores[barred] = -torch.inf
            number = _drawn(scores, temperature, chance)
            yield names[number]
            scores = step(stream, number)

    return rest(scores)


def step(stream: Stream, number: int) -> Tensor:
    """Scores ``(V,)`` of the next word, float32 on the CPU, after the stream has read the word with this number."""
    out = stream(torch.tensor([number]))
    assert out is not None  # only a network of snippets may return None
    return out.float().cpu().clone()


def _drawn(scores: Tensor, temperature: float, chance: torch.Generator) -> int:
    if temperature == 0:
        return int(scores.argmax())
    return int(torch.multinomial((scores.double() / temperature).softmax(-1), 1, generator=chance))
