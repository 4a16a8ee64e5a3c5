"""A network of features: one fc layer, before which recurrent layers can stand."""

from torch import Tensor, nn

from prernn.layers.arguments import whole


class Features(nn.Module):
    """Class scores straight from a vector of features: what `prernn.traditional` puts recurrent layers into.

    Example:
        >>> import prernn, torch
        >>> net = prernn.traditional(prernn.backbone("features", features=39), cell="lstm", hidden_size=8, outputs=4)
        >>> net(torch.rand(2, 5, 39))[0].shape  # (B, T, K)
        torch.Size([2, 5, 4])

    Args:
        features: of a step.
        classes: outputs ``K``.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(self, features: int, classes: int = 2) -> None:
        super().__init__()
        self.output = nn.Linear(whole("features", features), whole("classes", classes))

    def forward(self, features: Tensor) -> Tensor:
        """``(B, features)`` to ``(B, K)``."""
        out: Tensor = self.output(features)
        return out
