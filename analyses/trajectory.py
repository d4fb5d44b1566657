"""Estimators along training: trains a digits classifier with each, and measures them on the way.

Run: python analyses/trajectory.py   (about twelve minutes of one core; --quick in seconds, --report for the PDF alone)

Writes reports/trajectory.{json,pdf}. What the JSON holds is not measured again: the same command goes on where it was
interrupted.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import estimator_lab as lab
from estimator_lab.along import trajectory
from estimator_lab.estimators import DisARM, LeaveOneOut, ReinMax, StraightThrough, StraightThroughGumbelSoftmax
from estimator_lab.noise import derive_seed
from estimator_lab.problems import DigitsClassifier
from estimator_lab.problems.images import load_digits
from estimator_lab.training import Training, expected_loss
from estimator_lab.trajectories import Loss, Trajectory

REPORTS = Path(__file__).parent.parent / "reports"
REFERENCE = LeaveOneOut(4)
ESTIMATORS = (StraightThrough(), StraightThroughGumbelSoftmax(), REFERENCE, DisARM(), ReinMax())
MINIBATCH = 100


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        checkpoints: where estimators and losses are measured; training ends at the last.
        seeds: trainings with each estimator.
        batch: training examples that gradients are measured on.
        replicates: of each estimator at each checkpoint.
        truth: replicates of the truth.
        estimators: trained with and measured.
    """

    checkpoints: tuple[int, ...] = (0, 1, 3, 10, 20, 50, 100, 200, 500, 1000, 2000)
    seeds: int = 3
    batch: int = 32
    replicates: int = 2**12
    truth: int = 2**12
    estimators: tuple[lab.Estimator, ...] = ESTIMATORS


QUICK = Scale((0, 2, 8), 2, 2, 2**7, 2**7, (StraightThrough(), REFERENCE))


class OnRows(lab.Problem):
    """The classifier on rows of the digits, which may be exchanged between steps of a training."""

    sites = DigitsClassifier.sites
    label = "digits classifier"

    def __init__(self, rows: Tensor):
        self.network, self.batch = DigitsClassifier(), len(rows)
        self.take(rows)

    def take(self, rows: Tensor) -> "OnRows":
        """Goes on with other rows, as many as before."""
        self.x, self.y = load_digits().rows(rows, torch.empty((), dtype=torch.float64))
        return self

    def weights(self) -> Mapping[str, Tensor]:
        """Those that every training begins with."""
        return initial()

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """The network's, at the rows."""
        return self.network.theta_at(weights, samples, self.x)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """The network's, at the rows."""
        return self.network.loss_at(weights, samples, thetas, self.x, self.y)

    def __repr__(self) -> str:
        return f"DigitsClassifier on {self.batch} rows"


@cache
def initial() -> dict[str, Tensor]:
    """Weights that every training begins with."""
    return DigitsClassifier().initial(torch.Generator().manual_seed(derive_seed("trajectory", "initial")))


def trained(estimator: lab.Estimator, seed: int, scale: Scale) -> tuple[dict[int, lab.Problem], list[Loss]]:
    """The measured problem at the weights of every checkpoint, and the expected losses there."""
    count = load_digits().training
    generator = torch.Generator().manual_seed(derive_seed("trajectory", "minibatches", seed))
    minibatch = OnRows(torch.arange(MINIBATCH))
    examples = {
        "training": OnRows(torch.arange(count)),
        "held-out": OnRows(torch.arange(count, count + load_digits().held_out)),
    }

    def next_batch(step: int) -> lab.Problem:
        return minibatch.take(torch.randint(count, (MINIBATCH,), generator=generator))

    training = Training(OnRows(torch.arange(scale.batch)), estimator, batches=next_batch, seed=seed)
    problems, losses = {}, []
    for step in scale.checkpoints:
        problems[step] = training(step)
        for on, problem in examples.items():
            value = expected_loss(problem.at(training.weights, f"{estimator.label}, {on}, step {step}"), 32, seed)
            losses.append(Loss(estimator.label, step, on, seed, value))
    return problems, losses


def study(scale: Scale, file: Path, command: str) -> Trajectory:
    """Trains, and measures all estimators along the reference's training and each along its own."""
    problems, losses = {}, []
    for estimator in scale.estimators:
        for seed in range(scale.seeds):
            found, own = trained(estimator, seed, scale)
            losses += own
            problems.setdefault(estimator.label, found)
            print(
                f"trained with {estimator.label}, seed {seed}: {own[-1].on} loss {own[-1].value.value:.3f}", flush=True
            )

    def progress(what: str, done: int, planned: int) -> None:
        if done == planned > 0:
            print(what, flush=True)

    result = trajectory(
        {name: found.__getitem__ for name, found in problems.items()},
        scale.checkpoints,
        {e.label: scale.estimators if e == REFERENCE else (e,) for e in scale.estimators},
        budget=scale.replicates,
        truth_replicates=scale.truth,
        exact=False,
        file=file,
        title="Gradient estimators along training",
        command=command,
        progress=progress,
    )
    batch = tuple(s for s in result.losses if s.on == "batch")
    result = replace(result, losses=(*batch, *losses), command=command)
    result.save(file)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small study that shows that everything runs")
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--report", action="store_true", help="render the PDF from the JSON alone")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "trajectory.json"
    torch.set_num_threads(1)  # the tensors are small: threads would only cost
    command = "python analyses/trajectory.py" + " --quick" * options.quick
    result = Trajectory.load(file) if options.report else study(QUICK if options.quick else Scale(), file, command)
    from trajectory_report import render

    (options.out / "trajectory.pdf").write_bytes(render(result))
    print(result.summary())


if __name__ == "__main__":
    main()
