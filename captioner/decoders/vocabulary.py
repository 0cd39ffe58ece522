"""The last layer of a decoder: how well each word fits."""

from torch import Tensor, nn
from torch.nn import functional


class Vocabulary(nn.Module):
    """Logits of all words.

    Tied (1608.05859), a word is compared with what it is read as: the weights are those of the
    embedding, which each call is given. So they are held, saved and averaged once.
    """

    def __init__(self, size: int, words: int, *, tied: bool = False) -> None:
        super().__init__()
        layer = nn.Linear(size, words)
        self.weight = None if tied else layer.weight
        self.bias = layer.bias

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Compare features with each word.

        Args:
            features: [... x size].
            embedding: the weights by which words are read, [words x size]; used where tied.

        Returns:
            Logits [... x words].
        """
        weight = embedding if self.weight is None else self.weight
        return functional.linear(features, weight, self.bias)
