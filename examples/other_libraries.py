"""Diagnoses gradient estimators of other installed libraries: Pyro's straight-through laws, snnTorch's spike functions.

Run: pip install -c constraints.txt -e '.[peers]' && python examples/other_libraries.py   (about a minute)

Each one is a function from theta to a sample that has its own backward pass, which is all that ``DropIn`` needs. Where
the package has the same method, both are measured, and the difference of their means is given in standard errors.
"""

import argparse
from collections.abc import Callable

import torch
from pyro.distributions import RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough
from snntorch import surrogate
from torch import Tensor

import estimator_lab as lab
from estimator_lab.estimators import StraightThrough, StraightThroughGumbelSoftmax


def pyro_bernoulli(theta: Tensor) -> Tensor:
    """A hard sample of Bernoulli units; backward, that of the relaxed one at temperature 1."""
    return RelaxedBernoulliStraightThrough(theta.new_ones(()), logits=theta).rsample()


def pyro_categorical(theta: Tensor) -> Tensor:
    """The same for one-hot units."""
    return RelaxedOneHotCategoricalStraightThrough(theta.new_ones(()), logits=theta).rsample()


def noisy(theta: Tensor) -> Tensor:
    """A membrane potential: theta and logistic noise, so that it is above zero with probability sigmoid(theta)."""
    return theta + torch.rand_like(theta).clamp(1e-12, 1 - 1e-12).logit()


def snntorch_straight_through(theta: Tensor) -> Tensor:
    """A spike where the potential is positive; backward, one."""
    return surrogate.straight_through_estimator()(noisy(theta)).to(theta)


def snntorch_sigmoid(theta: Tensor) -> Tensor:
    """A spike; backward, the derivative of the sigmoid of the potential."""
    return surrogate.sigmoid(slope=1)(noisy(theta)).to(theta)


def snntorch_fast_sigmoid(theta: Tensor) -> Tensor:
    """A spike; backward, the derivative of u / (1 + 25 |u|), the library's default."""
    return surrogate.fast_sigmoid()(noisy(theta)).to(theta)


def snntorch_atan(theta: Tensor) -> Tensor:
    """A spike; backward, the derivative of the arctangent, the library's default."""
    return surrogate.atan()(noisy(theta)).to(theta)


Function = Callable[[Tensor], Tensor]
BITS: tuple[Function, ...] = (
    pyro_bernoulli,
    snntorch_sigmoid,
    snntorch_straight_through,
    snntorch_fast_sigmoid,
    snntorch_atan,
)
SAME: dict[Function, lab.Estimator] = {
    pyro_bernoulli: StraightThroughGumbelSoftmax(1.0),
    pyro_categorical: StraightThroughGumbelSoftmax(1.0),
    snntorch_sigmoid: StraightThroughGumbelSoftmax(1.0),
    snntorch_straight_through: StraightThrough("identity"),
}
"""Methods of the package that should have the same mean."""


def difference(function: Function, problem: lab.Problem, draws: int) -> float:
    """The largest difference of mean unit gradients between a function and the package's own, in standard errors.

    The two draw from different streams, so that they are independent.
    """
    own, other = (lab.measure(problem, e, draws, wrt=("unit",)) for e in (SAME[function], lab.DropIn(function)))
    error = ((own.moments.variance + other.moments.variance) / own.replicates) ** 0.5
    return float((abs(own.moments.mean - other.moments.mean) / error).max())


def main(argv: list[str] | None = None) -> None:
    """Prints what is found on toys and on a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2**14, help="for each estimator and problem")
    parser.add_argument("--toys-only", action="store_true", help="leave the network out")
    options = parser.parse_args(argv)
    draws, estimators = options.draws, [lab.DropIn(function) for function in BITS]
    bits, classes = lab.problems.QuadraticForm(), lab.problems.CategoricalQuadratic()
    print(lab.compare(estimators, on=[bits, lab.problems.TwoLayer()], budget=draws).summary())
    print(lab.diagnose(lab.DropIn(pyro_categorical), on=classes, budget=draws).summary())
    for function, method in SAME.items():
        problem = classes if function is pyro_categorical else bits
        apart = difference(function, problem, draws)
        names = f"{function.__name__} and {method.label} on {problem.label}"
        print(f"{names}: means at most {apart:.1f} standard errors apart")
    if options.toys_only:
        return
    result = lab.compare(estimators, on=lab.problems.DigitsClassifier(), budget=draws, truth_replicates=draws)
    print(result.summary())
    frame = result.to_frame()
    sites = frame[(frame["level"] == "site") & frame["statistic"].isin(["relative_bias", "variance", "mean_cosine"])]
    print(sites.pivot(index=["estimator", "name"], columns="statistic", values="value").round(3).to_string())


if __name__ == "__main__":
    main()
