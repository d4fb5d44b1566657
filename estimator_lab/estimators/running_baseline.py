"""The minimum-variance baseline of every unit, tracked by two running averages."""

import torch
from torch import Tensor

from estimator_lab.errors import UsageError


def running_averages(
    numerator: Tensor, denominator: Tensor, score: Tensor, loss: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """Both averages after one more minibatch: ``c N + (1 - c) mean(s^2 L)`` and ``c D + (1 - c) mean(s^2)``.

    Args:
        numerator: N ``[..., *units]``.
        denominator: D ``[..., *units]``.
        score: s ``[..., B, *units]``; ``h - p`` for a Bernoulli unit.
        loss: L ``[..., B]``.
        decay: c.
    """
    square, batch = score.square(), loss.dim() - 1
    weighted = square * loss[(..., *(None,) * (square.dim() - loss.dim()))]
    return (
        decay * numerator + (1 - decay) * weighted.mean(batch),
        decay * denominator + (1 - decay) * square.mean(batch),
    )


class RunningBaseline:
    """One baseline for each unit, E[s^2 L] / E[s^2], from two running averages over minibatches.

    It is for training loops of one's own. A minibatch may use the baseline of the averages before it, which ``update``
    returns: that is independent of its samples, and the gradient stays unbiased. Averages that include the minibatch
    itself bias it (`RunningReinforce`).

    .. code-block:: python

        baseline = RunningBaseline((400,))
        h = torch.bernoulli(p)
        loss = f(h)  # [B], one for each example
        lagged = baseline.update(h - p, loss)
        gradient = (loss[:, None] - lagged) * (h - p)  # with respect to the logits, [B, 400]

    Both averages begin at 1e-6, so that the first baseline is 1.

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), after Corollary 1; decay and beginning are those of
    the authors' code.

    Args:
        units: shape of the layer.
        decay: c, the weight of the past, at least 0 and below 1.
        dtype: of the averages.
        device: where they live.

    Attributes:
        numerator: average of ``s^2 L`` ``[*units]``.
        denominator: average of ``s^2`` ``[*units]``.

    Raises:
        UsageError: the decay is out of range.
    """

    def __init__(
        self,
        units: tuple[int, ...],
        decay: float = 0.9,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        check_decay(decay)
        self.decay = decay
        self.numerator = torch.full(units, 1e-6, dtype=dtype, device=device)
        self.denominator = self.numerator.clone()

    @property
    def value(self) -> Tensor:
        """The baseline ``[*units]`` that the next minibatch may use."""
        return self.numerator / self.denominator

    def update(self, score: Tensor, loss: Tensor) -> Tensor:
        """Takes a minibatch into the averages.

        Args:
            score: ``h - p`` of Bernoulli units, ``[B, *units]``.
            loss: of each example ``[B]``.

        Returns:
            The baseline ``[*units]`` from before, for this minibatch.

        Raises:
            UsageError: shapes do not fit.
        """
        units = tuple(self.numerator.shape)
        if loss.dim() != 1 or tuple(score.shape) != (len(loss), *units):
            raise UsageError(
                f"a running baseline takes scores [B, *units] and one loss for each example [B], units being "
                f"{list(units)}; found {list(score.shape)} and {list(loss.shape)}"
            )
        lagged = self.value
        self.numerator, self.denominator = running_averages(
            self.numerator, self.denominator, score.detach(), loss.detach(), self.decay
        )
        return lagged


def check_decay(decay: float) -> None:
    """Refuses a decay that is no weight of the past."""
    if not 0 <= decay < 1:
        raise UsageError(f"the decay of running averages is at least 0 and below 1; found {decay}")
