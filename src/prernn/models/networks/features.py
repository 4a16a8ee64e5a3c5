"""A network for features: one fc layer, before which recurrent layers can be inserted."""

from torch import Tensor, nn

from prernn.layers.arguments import whole


class Features(nn.Module):
    """Class scores directly from a vector of features, into which `prernn.traditional` inserts recurrent layers.

    Example:
        >>> import prernn, torch
        >>> net = prernn.traditional(prernn.backbone("features", features=39), cell="lstm", hidden_size=8, outputs=4)
        >>> net(torch.rand(2, 5, 39))[0].shape  # (B, T, K)
        torch.Size([2, 5, 4])

    Args:
        features: number of features per step.
        classes: number of outputs ``K``.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(self, features: int, classes: int = 2) -> None:
        super().__init__()
        self.output = nn.Linear(whole("features", features), whole("classes", classes))

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``(B, features)`` to ``(B, K)``."""
        out: Tensor = self.output(features)
        return out
