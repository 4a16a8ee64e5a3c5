"""A network for words: a vector for each word, and scores for the next word."""

import torch.nn.functional as F
from torch import Tensor, nn

from prernn.layers.arguments import real, whole


class WordEmbedding(nn.Embedding):
    """A vector of ``size`` numbers for each of V words; in training, the whole vectors of some words are dropped.

    A dropped word is dropped everywhere in a batch, which is the variational dropout of Gal and Ghahramani ("A
    Theoretically Grounded Application of Dropout in Recurrent Neural Networks", NeurIPS 2016, section 4.2); the vectors
    of the others are divided by ``1 - p``.

    Args:
        words: number of words ``V``.
        size: size of a vector.
        dropout: share ``p`` of the words that are dropped.
    """

    def __init__(self, words: int, size: int, dropout: float = 0.0) -> None:
        super().__init__(words, size)
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps word indices ``(N, 1)``, int64, to vectors ``(N, size)``."""
        weight = self.weight
        if self.training and self.dropout:
            weight = weight * F.dropout(weight.new_ones(len(weight), 1), self.dropout)
        return F.embedding(tokens.flatten(), weight)

    def extra_repr(self) -> str:
        """torch's text, and the dropout."""
        return f"{super().extra_repr()}, dropout={self.dropout}"


class Words(nn.Module):
    """Scores for the next word from the vector of this one; `prernn.traditional` inserts recurrent layers between.

    Words are indices ``(B, 1)``, int64; scores are ``(B, V)``. Without recurrence it is a bigram model.

    Example:
        >>> import prernn, torch
        >>> words = prernn.backbone("words", words=100, size=8)
        >>> net = prernn.traditional(words, cell="lstm", hidden="diagonal")
        >>> net(torch.randint(100, (2, 5, 1)))[0].shape  # (B, T, V)
        torch.Size([2, 5, 100])

    Args:
        words: number of words ``V``.
        size: size of a word's vector.
        tied: the weights of the scores are the vectors themselves (Press and Wolf, "Using the Output Embedding to
            Improve Language Models", EACL 2017). Layers in between must then output ``size`` numbers.
        dropout: share of the words that training drops, see `WordEmbedding`.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(self, words: int, size: int = 400, tied: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if real("words dropout", dropout, 0, 1) == 1:
            raise ValueError("words dropout: expected a share below 1, got 1")
        self.embedding = WordEmbedding(whole("words", words), whole("words size", size), dropout)
        self.output = nn.Linear(size, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)  # as in torch's own example of a language model
        nn.init.uniform_(self.output.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps words ``(B, 1)`` to scores ``(B, V)``."""
        out: Tensor = self.output(self.embedding(tokens))
        return out
