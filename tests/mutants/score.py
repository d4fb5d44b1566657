"""Score-function estimators with one mistake."""

import torch

from estimator_lab.estimators import LeaveOneOut, LocalExpectation, Reinforce
from estimator_lab.families import Bernoulli, Categorical, Scored
from mutants.mutant import Mutant


class MissingScore(Mutant):
    """Differentiates the loss at the sample and leaves the score out (NVIDIA-NeMo/RL#2506: the sampled KL)."""

    cause, source = "missing term", "NVIDIA-NeMo/RL#2506"

    def surrogate(self, site, downstream):
        return downstream(site.sample())


class DoubledScore(Mutant):
    """The gradient comes out twice, as of two custom linear-like layers in meta-pytorch/opacus#511."""

    cause, source = "gain 2", "meta-pytorch/opacus#511"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + 2 * site.score(value, loss)


class HalvedScore(Mutant):
    """Takes the mean over a sample and a copy of it whose score is left out."""

    cause = "gain 1/2"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) / 2


class WrongSign(Mutant):
    """Ascends: a reward is minimised."""

    cause = "sign"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss - site.score(value, loss)


class DividedByBatch(Mutant):
    """Per-example gradients scaled by 1/N, of which f-dangel/backpack#49 reported the variance."""

    cause, source = "gain batch", "f-dangel/backpack#49"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) / loss.shape[-1]


class DividedByPaths(Mutant):
    """Divides by the number of paths, over which the mean is taken anyway."""

    cause, healthy, paths = "gain 1/K", LeaveOneOut(3), 3

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + site.score(value, loss - others) / self.paths


class SelfIncludingBaseline(Mutant):
    """The baseline is the mean of all paths, its own included: the gradient shrinks by (K - 1) / K."""

    cause, healthy, paths = "gain K/(K-1)", LeaveOneOut(3), 3

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - loss.mean(-3, keepdim=True))


class CorrectedTwice(Mutant):
    """Leaves one out and multiplies with K / (K - 1) as well."""

    cause, healthy, paths = "gain K/(K-1)", LeaveOneOut(3), 3

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + site.score(value, loss - others) * self.paths / (self.paths - 1)


class SingletonLeftOut(Mutant):
    """Leave-one-out of a single path divides by zero (areal-project/AReaL#1705: singletons)."""

    cause, healthy, source = "non-finite", LeaveOneOut(2), "areal-project/AReaL#1705"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + site.score(value, loss - others)


class NormalisedAdvantage(Mutant):
    """Leave-one-out advantages over their standard deviation (NVIDIA-NeMo/RL#1518: advantages of a million)."""

    cause, healthy, source, paths = "loss scale", LeaveOneOut(4), "NVIDIA-NeMo/RL#1518", 4

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        spread = loss.detach().std(-3, keepdim=True, unbiased=False)
        return loss + site.score(value, (loss - others) / (spread + 1e-6))


class ActionDependentBaseline(Mutant):
    """A baseline that reads the sample whose score it multiplies."""

    cause = "baseline"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - value.flatten(site.lead).sum(-1))


class ContemporaneousBaseline(Mutant):
    """The baseline is the mean loss of the batch, the example's own among them."""

    cause = "baseline"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - loss.mean(-1, keepdim=True))


class RunningBaseline(Mutant):
    """A moving average that takes the present loss in before it is subtracted."""

    cause = "state"

    def __init__(self):
        self._average = 0.0

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        self._average = 0.9 * self._average + 0.1 * float(loss.detach().mean())
        return loss + site.score(value, loss - self._average)


class ScoreOfTheProbability(Mutant):
    """The gradient in p, in the place of that in the logit."""

    cause = "power of p(1-p)"

    def surrogate(self, site, downstream):
        value, p = site.sample(), site.mean.detach()
        loss = downstream(value)
        return loss + site.inject(site.expand(loss) * (value - p) / (p * (1 - p)))


class SigmoidDerivativeTwice(Mutant):
    """The derivative of the sigmoid once too often."""

    cause = "power of p(1-p)"

    def surrogate(self, site, downstream):
        value, p = site.sample(), site.mean.detach()
        loss = downstream(value)
        return loss + site.inject(site.expand(loss) * (value - p) * p * (1 - p))


class UnweightedDifference(Mutant):
    """Local expectation without p (1 - p)."""

    cause, healthy = "power of p(1-p)", LocalExpectation()

    def surrogate(self, site, downstream):
        loss = LocalExpectation().surrogate(site, downstream)
        (gradient,) = torch.autograd.grad(loss.sum(), site.theta, retain_graph=True, allow_unused=True)
        p = site.mean.detach()
        return loss + site.inject(gradient / (p * (1 - p)) - gradient)


class OnlyTheLastSite(Mutant):
    """The score of the layer that feeds the loss, and of no other."""

    cause = "site"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss if site.name == "h1" and site.theta.shape[-1] == 2 else loss + site.score(value, loss)


class LastUnitLeftOut(Mutant):
    """A loop over units that ends one too early."""

    cause = "dead path"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        scores = site.scored.score(site.theta.detach(), value)
        keep = torch.ones_like(scores)
        keep[..., -1] = 0
        return loss + site.inject(site.expand(loss) * scores * keep)


class AveragedUnits(Mutant):
    """The mean over the units of a layer where their sum belongs."""

    cause = "family"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) / site.size


class DetachedLoss(Mutant):
    """The loss leaves the graph: what comes after the layer trains nothing (izmailovpavel/understandingbdl#8)."""

    cause, source = "dead path", "izmailovpavel/understandingbdl#8"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value).detach()
        return loss + site.score(value, loss)


class MissingDetach(Mutant):
    """The weight of the score stays in the graph, as importance weights did in AntixK/PyTorch-VAE#53."""

    cause, source = "extra term", "AntixK/PyTorch-VAE#53"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        log_prob = site.scored.log_prob(site.theta, value).flatten(site.lead).sum(-1)
        return loss + log_prob * loss - (log_prob * loss).detach()


class OnlyTheScore(Mutant):
    """Returns the score term without the loss: its value is no loss, and nothing after the layer is trained."""

    cause = "missing term"

    def surrogate(self, site, downstream):
        value = site.sample()
        return site.score(value, downstream(value))


class SurrogateAsLoss(Mutant):
    """log p f in the place of a term of value zero: gradients are right, the value is no loss."""

    cause = "loss scale"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.scored.log_prob(site.theta, value).flatten(site.lead).sum(-1) * loss.detach()


class PathAxisFromTheFront(Mutant):
    """Takes the first axis for that of the paths, which axes that others prepend make wrong."""

    cause, healthy, paths = "axes", LeaveOneOut(3), 3

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(0, keepdim=True) - loss) / (loss.shape[0] - 1)
        return loss + site.score(value, loss - others)


class SinglePrecision(Mutant):
    """Computes probabilities in half precision on the way."""

    cause = "precision"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        p = site.theta.detach().to(torch.bfloat16).sigmoid().to(value.dtype)
        return loss + site.inject(site.expand(loss) * (value - p))


class CrossTermsLeftOut(Mutant):
    """The score of a categorical unit as of independent Bernoulli ones: x_k (1 - pi_k) alone."""

    cause, families = "family", (Bernoulli, Categorical)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        if isinstance(site.family, Bernoulli):
            return loss + site.score(value, loss)
        return loss + site.inject(site.expand(loss) * value * (1 - site.mean.detach()))


class LogOfZero(Mutant):
    """Differentiates x log p + (1 - x) log(1 - p), which is 0 * inf where p is 0 or 1."""

    cause = "non-finite"

    def surrogate(self, site, downstream):
        value, p = site.sample(), site.mean
        loss = downstream(value)
        log_prob = (value * p.log() + (1 - value) * (1 - p).log()).flatten(site.lead).sum(-1)
        term = log_prob * loss.detach()
        return loss + term - term.detach()


class WeightedByProbability(Mutant):
    """A score that is divided by the probability it was drawn with, as if it had been summed."""

    cause, families = "saturation", (Scored,)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        log_prob = site.scored.log_prob(site.theta.detach(), value).flatten(site.lead).sum(-1)
        return loss + site.score(value, loss * (0.2 * log_prob).exp())


class ConstantOfTheScore(Mutant):
    """x in the place of x - p: the mean of the score is no longer zero."""

    cause = "baseline"
    healthy = Reinforce()

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.inject(site.expand(loss) * value)


class BaselineOfTheMean(Mutant):
    """A baseline that is added where it should be taken off, and differentiated as well."""

    cause, families = "extra term", (Bernoulli,)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        term = site.mean.flatten(site.lead).sum(-1)
        return loss + site.score(value, loss) + 0.3 * (term - term.detach())
