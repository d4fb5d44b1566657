"""Estimators along training, training with them, and the probe beside a training.

Everything here is compared with what is known exactly, bit by bit or to rounding; no test can fail by chance.
"""

import itertools
import json
import random
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import estimator_lab as lab
from estimator_lab.along import trajectory
from estimator_lab.budget import Budget
from estimator_lab.chain import Chain
from estimator_lab.estimators import DisARM, Exact, LeaveOneOut, PerSite, Reinforce, StraightThrough
from estimator_lab.noise import NoNoise
from estimator_lab.probe import Probe
from estimator_lab.problems import GaussianPolynomial, TwoLayer
from estimator_lab.report.figures import trajectory as draw
from estimator_lab.tracking import to_tensorboard, write_table
from estimator_lab.training import Training, expected_loss
from estimator_lab.trajectories import Trajectory

sys.path.insert(0, str(Path(__file__).parent.parent / "analyses"))

PROBLEM = TwoLayer()
PAIR = [StraightThrough(), DisARM()]


def weights_at(step: int) -> dict[str, torch.Tensor]:
    """Weights that move with the step, without symmetry."""
    return {k: v * (1 + 0.02 * step) - 0.01 * step for k, v in PROBLEM.weights().items()}


def at(step: int) -> lab.Problem:
    return PROBLEM.at(weights_at(step), f"step {step}")


def along(steps=(0, 3, 10), estimators=tuple(PAIR), **kwargs) -> Trajectory:
    return trajectory(at, steps, estimators, budget=512, truth_replicates=512, exact=False, **kwargs)


@pytest.fixture(scope="module")
def course() -> Trajectory:
    return along()


def numbers(found: Trajectory) -> str:
    """All that is saved, without times."""
    points = [replace(p, finding=replace(p.finding, seconds=0.0)) for p in found.points]
    return replace(found, points=tuple(points), command="").to_json()


def states() -> tuple[object, ...]:
    """The global random streams."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


# ------------------------------------------------------------------------------------------------ along training
def test_a_checkpoint_has_the_numbers_of_diagnose(course):
    pairs = 3 * 2
    for step in (0, 3, 10):
        for estimator in PAIR:
            (point,) = [p for p in course.of(estimator=estimator.label) if p.step == step]
            few, share = Budget(512, early=False), 0.01 / pairs
            alone = lab.diagnose(estimator, at(step), budget=few, alpha=share, exact=False).findings[0]
            kept = [r for r in alone.rows if r.level != "weight"]
            assert [(r.level, r.name) for r in point.finding.rows] == [(r.level, r.name) for r in kept]
            for mine, its in zip(point.finding.rows, kept, strict=True):
                assert str(mine.statistics) == str(its.statistics)
                assert str((mine.p, mine.low, mine.high, mine.verdict)) == str((its.p, its.low, its.high, its.verdict))
                assert not its.tested or mine.p_holm == pytest.approx(min(1, its.p_holm * pairs))


def test_known_expectations_are_used():
    found = trajectory(lambda step: lab.problems.OneBit(logit=step / 10 - 1), (0, 5), PAIR, budget=256)
    assert [p.finding.total.statistics["relative_bias"].low > 0 for p in found.points] == [True, False] * 2
    assert all(p.finding.exact for p in found.points) and found.points[1].finding.verdict == "exact"


def test_the_level_is_shared_by_all_checkpoints():
    few, many = along((0,), (StraightThrough(),)), along((0, 1, 2, 3, 4), (StraightThrough(),))
    wide, narrow = (found.points[0].finding.row("site", "h1") for found in (many, few))
    assert wide.high - wide.low > narrow.high - narrow.low
    assert wide.statistics == narrow.statistics


def test_the_loss_of_a_checkpoint_is_the_expected_loss(course):
    found = {s.step: s.value.value for s in course.losses}
    for step in course.steps:
        assert found[step] == pytest.approx(float(enumerated_loss(weights_at(step))), abs=1e-12)
    assert found[0] != pytest.approx(found[10], abs=1e-3)


def enumerated_loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The expected loss of TwoLayer, summed over all states here, differentiable in the weights."""
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    total = torch.zeros((), dtype=torch.float64)
    theta1 = x @ weights["w1"].T
    for bits1 in itertools.product([0.0, 1.0], repeat=3):
        h1 = torch.tensor(bits1, dtype=torch.float64)
        p1 = (h1 * theta1.sigmoid() + (1 - h1) * (1 - theta1.sigmoid())).prod(-1)
        p = (weights["w2"] @ h1).sigmoid()
        for bits2 in itertools.product([0.0, 1.0], repeat=2):
            h2 = torch.tensor(bits2, dtype=torch.float64)
            p2 = (h2 * p + (1 - h2) * (1 - p)).prod()
            loss = (h2 @ weights["v"] - 0.3).square() + 0.1 * theta1.square().sum(-1)
            total = total + (p1 * p2 * loss).mean()
    return total


def test_sampled_losses_agree_with_the_sum_and_widen_when_fewer():
    """One test at a level of 1e-6 (5 standard errors are 5.7e-7)."""
    many, few = expected_loss(Wide(), 4096), expected_loss(Wide(), 256)
    error = (many.high - many.value) / 1.96
    p = torch.linspace(-2, 2, 48, dtype=torch.float64).reshape(2, 24).sigmoid()
    mean, variance = p.sum(-1) / 8, (p * (1 - p)).sum(-1) / 64
    assert abs(many.value - float((mean.square() + variance).mean())) < 5 * error
    assert 2 < (few.high - few.low) / (many.high - many.low) < 8


class Wide(lab.Problem):
    """48 bits, too many to sum over."""

    sites = (lab.SiteSpec("b", lab.Bernoulli(), (24,)),)
    batch = 2

    def weights(self):
        return {"theta": torch.linspace(-2, 2, 48, dtype=torch.float64).reshape(2, 24)}

    def theta(self, weights, samples):
        return weights["theta"]

    def loss(self, weights, samples, thetas):
        return (samples[0].sum(-1) / 8).square()


def test_saved_and_loaded(course, tmp_path):
    course.save(tmp_path / "t.json")
    again = Trajectory.load(tmp_path / "t.json")
    assert again.to_json() == course.to_json()
    frame, own = again.to_frame(), course.to_frame()
    assert list(frame.columns) == list(own.columns) and len(frame) == len(own)
    np.testing.assert_allclose(frame["value"], own["value"], rtol=1e-8, atol=1e-300)
    keys = ["trained_with", "step", "run", "estimator", "level", "name", "statistic"]
    assert not frame.duplicated(keys).any()
    assert {"relative_bias", "variance", "snr", "mean_cosine", "cosine_of_mean", "descent", "loss"} <= set(
        frame["statistic"]
    )


@pytest.mark.parametrize("text", ["", "{}", '{"format": "estimator_lab trajectory"}', "[1"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(lab.UsageError, match=r"t\.json"):
        Trajectory.load(tmp_path / "t.json")
    with pytest.raises(lab.UsageError, match="missing"):
        Trajectory.load(tmp_path / "missing.json")


def test_goes_on_where_it_was_interrupted(course, tmp_path):
    file = tmp_path / "t.json"

    def interrupted(step: int) -> lab.Problem:
        if step == 10:
            raise KeyboardInterrupt
        return at(step)

    with pytest.raises(KeyboardInterrupt):
        trajectory(interrupted, (0, 3, 10), PAIR, budget=512, truth_replicates=512, exact=False, file=file)
    kept = Trajectory.load(file)
    assert kept.steps == [0, 3]
    spoiled = replace(
        kept, points=tuple(replace(p, finding=replace(p.finding, words="not again")) for p in kept.points)
    )
    spoiled.save(file)
    whole = along(file=file)
    assert [p.finding.words == "not again" for p in whole.points] == [True] * 4 + [False] * 2  # not measured again
    kept.save(file)
    assert numbers(along(file=file)) == numbers(course)
    assert numbers(Trajectory.load(file)) == numbers(course)


def test_an_interrupt_within_a_checkpoint_keeps_what_was_measured(tmp_path):
    def stop(what: str, done: int, planned: int) -> None:
        if "DisARM" in what and "step 3" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        along(file=tmp_path / "t.json", progress=stop)
    found = Trajectory.load(tmp_path / "t.json")
    assert [(p.step, p.estimator) for p in found.points] == [(0, "ST"), (0, "DisARM"), (3, "ST")]


def test_a_file_of_something_else_is_not_gone_on_with(tmp_path):
    file = tmp_path / "t.json"
    along((0,), file=file)
    with pytest.raises(lab.UsageError, match="other seed;"):
        along((0,), file=file, seed=1)
    with pytest.raises(lab.UsageError, match="other checkpoints, pairs"):
        along((0, 1), file=file)
    with pytest.raises(lab.UsageError, match="other weights at step 0"):
        trajectory(lambda step: at(5), (0,), PAIR, budget=512, truth_replicates=512, exact=False, file=file)


def test_trainings_by_name_with_estimators_of_their_own():
    found = trajectory(
        {"a": at, "b": lambda step: PROBLEM.at(weights_at(step + 40), f"b {step}")},
        (0, 2),
        {"a": PAIR, "b": [DisARM()]},
        budget=256,
        exact=False,
    )
    assert [(p.trained_with, p.step, p.estimator) for p in found.points] == [
        ("a", 0, "ST"), ("a", 0, "DisARM"), ("a", 2, "ST"), ("a", 2, "DisARM"), ("b", 0, "DisARM"), ("b", 2, "DisARM"),
    ]  # fmt: skip
    assert found.trainings == ["a", "b"] and found.estimators == ["ST", "DisARM"]
    assert found.of(trained_with="b", estimator="DisARM")[0].step == 0


LARGE = 2.0


@dataclass(frozen=True)
class Broken(lab.Estimator):
    """Not a number from some weights on."""

    families = (lab.Bernoulli,)

    def surrogate(self, site, downstream):
        loss = downstream(site.sample())
        first = site.theta.detach().select(site.lead - 2, 0)  # of the replicates; checks move the others
        return loss * float("nan") if site.name == "h1" and float(first.abs().max()) > LARGE else loss


def test_a_failure_is_kept_and_the_others_go_on():
    found = trajectory(at, (0, 40), [Broken(), StraightThrough()], budget=256, exact=False)
    assert [(p.step, p.estimator) for p in found.points] == [(0, "Broken"), (0, "ST"), (40, "ST")]
    ((failure),) = found.failures
    assert (failure.step, failure.estimator) == (40, "Broken") and "NaN" in failure.reason
    assert "not measured: Broken at step 40" in found.summary()


def test_a_truth_that_is_not_a_number_is_a_failure():
    gone = {k: v * float("nan") for k, v in weights_at(0).items()}
    found = trajectory(
        lambda step: PROBLEM.at(gone, "gone") if step else at(0), (0, 1), [StraightThrough()], budget=256
    )
    assert [p.step for p in found.points] == [0]
    assert {f.step for f in found.failures} == {1}
    assert Trajectory.from_json(found.to_json()).failures == found.failures


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((at, (3, 0), PAIR), "ascending"),
        ((at, (), PAIR), "ascending"),
        ((at, (-1, 3), PAIR), "from 0 on"),
        ((at, (0,), []), "at least one estimator"),
        ((at, (0,), [DisARM]), "an object"),
        ((at, (0,), [DisARM(), DisARM()]), "its own repr"),
        ((lambda step: weights_at(step), (0,), PAIR), "return a Problem"),
        ((at, 5, PAIR), "whole numbers in a list; found 5"),
        ((at, (0.5,), PAIR), "whole numbers"),
        ((at, (0,), DisARM()), "a list of estimators"),
        ((3, (0,), PAIR), "no function of a step"),
        (({"a": at}, (0,), {"b": PAIR}), "training 'a' has no estimators"),
        ((lambda step: GaussianPolynomial(), (0,), PAIR), "leave ST out"),
    ],
)
def test_mistakes_are_told(arguments, words):
    with pytest.raises(lab.UsageError, match=words):
        trajectory(*arguments, budget=256)


def test_a_folder_that_cannot_be_written_to_is_told_first(tmp_path):
    with pytest.raises(lab.UsageError, match="cannot write"):
        trajectory(lambda step: pytest.fail("measured"), (0,), PAIR, file=tmp_path / "none" / "found.json")


@dataclass(frozen=True)
class Alike(lab.Estimator):
    """Has the short name of the others of its kind; breaks down while told to."""

    factor: float
    families = (lab.Bernoulli,)
    label = "alike"
    broken = True

    def surrogate(self, site, downstream):
        if self.factor == 2 and Alike.broken:
            raise ValueError("not now")
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, self.factor * loss)


def test_a_loss_that_cannot_be_solved_is_a_failure():
    class Solved(TwoLayer):
        def loss(self, weights, samples, thetas):
            jitter = 0.0 if weights["v"].isfinite().all() else float("nan")
            return super().loss(weights, samples, thetas) * torch.linalg.cholesky(torch.eye(2) + jitter).sum()

    nan = {k: v * float("nan") for k, v in PROBLEM.weights().items()}
    found = trajectory(lambda step: Solved().at(nan, "nan"), (0,), PAIR, budget=256)
    assert {f.estimator for f in found.failures} == {"", "the expected loss"} and not found.points
    assert all("LinAlgError" in f.reason for f in found.failures)


def test_names_stay_when_a_run_goes_on(tmp_path, monkeypatch):
    pair, file = [Alike(1.0), Alike(2.0)], tmp_path / "found.json"
    assert along((0,), pair, file=file).estimators == ["Alike(factor=1.0)"]
    monkeypatch.setattr(Alike, "broken", False)
    assert along((0,), pair, file=file).estimators == ["Alike(factor=1.0)", "Alike(factor=2.0)"]


def test_another_problem_with_equal_weights_is_not_gone_on_with(tmp_path):
    file = tmp_path / "found.json"
    along((0,), file=file)
    with pytest.raises(lab.UsageError, match=r"was measured on TwoLayer\(batch=2\)"):
        trajectory(
            lambda step: TwoLayer(batch=3).at(weights_at(step), f"step {step}"),
            (0,), PAIR, budget=512, truth_replicates=512, exact=False, file=file,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------ training
def descended(estimator: lab.Estimator, steps: int = 5) -> dict[str, torch.Tensor]:
    training = Training(PROBLEM, estimator, optimiser=lambda w: torch.optim.SGD(w, 0.3))
    return dict(training(steps).weights())


def test_training_with_the_exact_gradient_descends_the_expected_loss():
    weights = {k: v.clone().requires_grad_() for k, v in PROBLEM.weights().items()}
    for _ in range(5):
        gradients = torch.autograd.grad(enumerated_loss(weights), list(weights.values()))
        weights = {
            k: (v - 0.3 * g).detach().requires_grad_() for (k, v), g in zip(weights.items(), gradients, strict=True)
        }
    found, biased = descended(Exact()), descended(StraightThrough())
    weights = {k: v.detach() for k, v in weights.items()}
    for name, expected in weights.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-12)
    assert max(float((biased[k] - weights[k]).abs().max()) for k in weights) > 1e-3  # the check can fail


def test_training_repeats_goes_on_and_touches_no_stream():
    before = states()
    one, two = Training(PROBLEM, DisARM(), seed=3), Training(PROBLEM, DisARM(), seed=3)
    one(2)
    for name, tensor in one(6).weights().items():
        assert torch.equal(tensor, two(6).weights()[name])
    assert not torch.equal(one.weights["w1"], Training(PROBLEM, DisARM(), seed=4)(6).weights()["w1"])
    assert states() == before
    assert repr(two(6)) == "TwoLayer(batch=2).at('DisARM, step 6')"
    with pytest.raises(lab.UsageError, match="cannot go back to 5"):
        one(5)


class Rows(lab.Problem):
    """One layer on examples that can be exchanged."""

    sites = (lab.SiteSpec("h", lab.Bernoulli(), (2,)),)
    batch = 3

    def __init__(self, step: int):
        self.take(step)

    def take(self, step: int) -> "Rows":
        self.x = torch.sin(torch.arange(9, dtype=torch.float64) * (step + 1.3)).reshape(3, 3)
        return self

    def weights(self):
        return {"w": torch.linspace(-1, 0.7, 6, dtype=torch.float64).reshape(2, 3)}

    def theta(self, weights, samples):
        return self.x @ weights["w"].T

    def loss(self, weights, samples, thetas):
        return (samples[0].sum(-1) - self.x[:, 0]).square()


def test_minibatches_are_used_as_new_problems_and_as_one_whose_examples_change():
    shared, plain = Rows(0), lambda w: torch.optim.SGD(w, 0.1)
    new = Training(Rows(0), Exact(), batches=Rows, optimiser=plain)(4).weights()["w"]
    same = Training(Rows(0), Exact(), batches=shared.take, optimiser=plain)(4).weights()["w"]
    w = Rows(0).weights()["w"]
    for step in range(4):
        w = w.detach().requires_grad_()
        x = Rows(step).x
        p = (x @ w.T).sigmoid()
        mean, variance = p.sum(-1) - x[:, 0], (p * (1 - p)).sum(-1)
        w = w - 0.1 * torch.autograd.grad((mean.square() + variance).mean(), w)[0]
    np.testing.assert_allclose(new, w.detach(), atol=1e-12)
    assert torch.equal(new, same)
    assert not torch.allclose(new, Training(Rows(0), Exact(), optimiser=plain)(4).weights()["w"])


def test_only_what_was_learned_for_each_example_is_refused_minibatches():
    Training(Rows(0), PerSite({}, Reinforce()), batches=Rows)(1)
    with pytest.raises(lab.UsageError, match="learns something for each example"):
        Training(Rows(0), PerSite({}, Reinforce("mean")), batches=Rows)
    with pytest.raises(lab.UsageError, match=r"batches\(0\) gave NoneType"):
        Training(Rows(0), Reinforce(), batches=lambda step: None)(1)


class Step(lab.problems.GaussianPolynomial):
    """P(x_1 > 0.3): a quadrature is off by percents."""

    def f(self, x):
        return (x[..., 0] > 0.3).to(x)


def test_the_expected_loss_of_a_jump_is_sampled():
    problem = Step()
    mean, log_s = problem.weights()["theta"][0]
    exact = 0.5 * (1 + torch.erf((mean - 0.3) / log_s.exp() / 2**0.5).item())
    found = expected_loss(problem, 2**14)
    error = (found.high - found.low) / 2 / 1.96
    assert found.low < found.high and abs(found.value - exact) < 6 * error
    with pytest.raises(lab.UsageError, match="at least 2 replicates"):
        expected_loss(problem, 1)


def test_the_expected_loss_is_the_closed_form_where_there_is_one():
    for family in ("bernoulli", "normal"):
        small, wide = (lab.problems.LinearNetwork(family, sizes) for sizes in ((3, 2, 1, 2), (3, 40, 30, 2)))
        exact = Chain(small, Exact(), ("unit",)).value(NoNoise()).mean().item()
        assert expected_loss(small).value == pytest.approx(exact, rel=1e-9)
        assert expected_loss(wide).low == expected_loss(wide).high


def test_training_that_breaks_down_says_where():
    with pytest.raises(lab.MeasurementError, match="at step 0: the gradient of w1 is not finite"):
        Training(PROBLEM.at(weights_at(40), "far"), Broken())(1)
    with pytest.raises(lab.UsageError, match="learns something for each example"):
        Training(Rows(0), Reinforce("mean"), batches=Rows)


# ------------------------------------------------------------------------------------------------ the probe
class Clock:
    """Seconds that pass when told to: each reading takes `tick`."""

    def __init__(self, tick: float = 0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class Net(nn.Module):
    """A module with the weights of TwoLayer, a dropout, a norm with buffers, and integers."""

    def __init__(self):
        super().__init__()
        for name, tensor in PROBLEM.weights().items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3, dtype=torch.float64)


def probe(**kwargs) -> Probe:
    return Probe(PROBLEM, PAIR, **{"replicates": 256, "clock": Clock(), **kwargs})


def frozen(net: Net) -> list[bytes]:
    """All of a module, bit by bit."""
    tensors = [*net.state_dict().values(), *(p.grad for p in net.parameters() if p.grad is not None)]
    return [t.detach().numpy().tobytes() for t in tensors] + [repr([m.training for m in net.modules()]).encode()]


@pytest.mark.parametrize("mode", ["train", "eval", "inference", "no_grad", "autocast"])
def test_the_probe_leaves_the_training_as_it_was(mode):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    net = Net()
    net.train(mode != "eval")
    net.norm(net.drop(torch.randn(5, 3, dtype=torch.float64))).sum().backward()
    net.w1.grad = torch.full_like(net.w1, 0.5)
    versions = [p._version for p in net.parameters()]
    before, bits = states(), frozen(net)
    around = {
        "inference": torch.inference_mode(),
        "no_grad": torch.no_grad(),
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }.get(mode, torch.enable_grad())
    watch = Probe(lambda w: drawing(w), PAIR, replicates=256)
    with around:
        found = watch.step(0, net)
    assert len(found) == 2
    assert states() == before and frozen(net) == bits
    assert [p._version for p in net.parameters()] == versions
    alone = probe()
    alone.step(0, PROBLEM.weights())
    assert str(found[0].finding.total.statistics) == str(alone.trajectory.points[0].finding.total.statistics)


def drawing(weights: dict[str, torch.Tensor]) -> lab.Problem:
    """The problem, made in a way that draws from every global stream."""
    torch.rand(3), random.random(), np.random.rand(3)
    return PROBLEM.at({k: weights[k] for k in PROBLEM.weights()}, "step 0")


def test_without_putting_back_the_streams_would_move():
    before = states()
    drawing(dict(PROBLEM.weights()))
    after = states()
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_the_probe_gives_the_numbers_of_a_trajectory():
    watch = probe(every=5)
    for step in range(11):
        watch.step(step, weights_at(step))
    assert watch.trajectory.steps == [0, 5, 10]
    found = trajectory(at, (0, 5, 10), PAIR, budget=256, exact=False)
    mine, its = (t.to_frame() for t in (watch.trajectory, found))
    its = its[its["statistic"] != "loss"]
    assert mine.drop(columns="verdict").equals(its.drop(columns="verdict"))


def test_the_levels_of_all_probes_add_up():
    """The k-th share is 1 / (k (k + 1)): the measurements at steps 0, 1, 2 are the first three."""
    watch = probe()
    for step in range(3):
        watch.step(step, weights_at(0))
    pairs = [2 * k * (k + 1) for k in (1, 2, 3)]
    points = watch.trajectory.of(estimator="ST")
    assert [p.step for p in points] == [0, 1, 2]
    for point, count in zip(points, pairs, strict=True):
        alone = lab.diagnose(
            StraightThrough(),
            PROBLEM.at(weights_at(0), f"step {point.step}"),
            budget=Budget(256, early=False),
            alpha=0.01 / count,
            exact=False,
        )
        assert point.finding.row("site", "h1").high == alone.findings[0].row("site", "h1").high
    assert sum(Fraction(2, count) for count in (2 * k * (k + 1) for k in range(1, 1001))) == 1 - Fraction(1, 1001)


def due(every: int | None, steps) -> list[int]:
    watch = probe(every=every)
    watch._measure = lambda step, due, source: measured.append(step) or ()
    measured: list[int] = []
    for step in steps:
        watch.step(step, {})
    return measured


def test_when_a_probe_is_due():
    assert due(None, range(40)) == [0, 1, 2, 4, 8, 16, 32]
    assert due(10, range(40)) == [0, 10, 20, 30]
    assert due(10, range(3, 60, 7)) == [3, 10, 24, 31, 45, 52]  # the hook does not come by at every step
    assert due(10, [5, 5, 5, 12, 12]) == [5, 12]  # accumulation: one step, many calls


def run_by_the_clock(
    train: float, cost: float, steps: int, overhead: float = 0.1
) -> tuple[Probe, list[int], list[float]]:
    """Steps of training that take `train` seconds, measurements that take `cost`."""
    clock = Clock()
    watch = probe(every=1, overhead=overhead, clock=clock)
    measured: list[int] = []

    def measure(step, due, source):
        measured.append(step)
        clock.now += cost
        return ()

    watch._measure = measure
    shares = []
    for step in range(steps):
        watch.step(step, {})
        clock.now += train
        shares.append(watch.share)
    return watch, measured, shares


def test_the_share_of_the_time_is_kept():
    watch, measured, shares = run_by_the_clock(1.0, 2.0, 101)
    # 2 + 2 <= 0.1 t from t = 40 on, then 6 <= 0.1 t, 8 <= 0.1 t, ...
    assert measured == [0, 40, 60, 80, 100]
    assert watch.skipped == 101 - 5 and watch.trained == 100 and watch.spent == 10
    assert all(share <= 0.1 + 1e-12 for share in shares[40:])
    cheap, every, _ = run_by_the_clock(1.0, 0.01, 50)
    assert every == list(range(50)) and cheap.skipped == 0
    dear, once, _ = run_by_the_clock(1.0, 1e6, 50)
    assert once == [0] and dear.skipped == 49


def test_a_probe_goes_on_after_a_resume(tmp_path):
    def steps(watch: Probe, which) -> None:
        for step in which:
            watch.step(step, weights_at(step))
            watch._clock.now += 1.0

    whole = probe(every=4, overhead=0.3, clock=Clock(0.5))
    steps(whole, range(20))
    first = probe(every=4, overhead=0.3, clock=Clock(0.5))
    steps(first, range(9))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = probe(every=4, overhead=0.3, clock=Clock(0.5))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (second.skipped, second.spent, second.trained) == (first.skipped, first.spent, first.trained)
    steps(second, range(9, 20))
    assert numbers(second.trajectory) == numbers(whole.trajectory)
    assert second.spent == whole.spent and second.skipped == whole.skipped
    # what passes between the save and the first step after it is no training
    assert whole.trained - second.trained == pytest.approx(1.5)


def test_a_state_of_other_settings_is_refused():
    state = probe(seed=1).state_dict()
    with pytest.raises(lab.UsageError, match="other seed"):
        probe().load_state_dict(state)
    with pytest.raises(lab.UsageError, match="schema 99"):
        probe().load_state_dict({**state, "schema": 99})


def test_what_is_not_finite_is_counted_and_said():
    watch = Probe(PROBLEM, [Broken(), StraightThrough()], replicates=256, every=1, clock=Clock())
    gone = {k: v * float("inf") for k, v in weights_at(0).items()}
    assert len(watch.step(0, weights_at(0))) == 2
    assert len(watch.step(1, weights_at(40))) == 1
    assert watch.step(2, gone) == ()
    assert len(watch.step(3, weights_at(0))) == 2
    assert {f.step for f in watch.trajectory.failures} == {1, 2}
    assert f"failed {len(watch.trajectory.failures)} times" in repr(watch)


def test_wrapped_and_half_precision_weights_are_found():
    expected = probe()
    expected.step(0, PROBLEM.weights())
    compiled = torch.compile(Net(), backend="eager")
    assert any(name.startswith("_orig_mod.") for name, _ in compiled.named_parameters())
    for source in (Net(), compiled, nn.DataParallel(Net())):
        watch = probe()
        watch.step(0, source)
        assert watch.trajectory.to_frame().equals(expected.trajectory.to_frame())
    seen = {}
    half = {k: v.bfloat16() for k, v in PROBLEM.weights().items()} | {"steps": torch.tensor(3)}
    Probe(lambda w: seen.update(w) or PROBLEM, PAIR, replicates=64).step(0, half)
    assert {v.dtype for v in seen.values()} == {torch.float32} and "steps" not in seen


def test_buffers_that_a_stored_problem_does_not_follow_are_noted():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in PROBLEM.weights().items():
                setattr(self, name, nn.Parameter(tensor.clone()))
            self.tied = self.w1
            self.register_buffer("mean", torch.zeros(2))

    module, stored = Holder(), Probe(PROBLEM, PAIR, every=1, overhead=1e9, replicates=64)
    assert not any("buffers" in note for p in stored.step(0, module) for note in p.finding.notes)
    assert not any("buffers" in note for p in stored.step(1, module) for note in p.finding.notes)
    module.mean += 1
    for point in stored.step(2, module):
        assert any("the buffers ['mean'] of the module have changed" in note for note in point.finding.notes)
    seen = {}
    Probe(lambda w: seen.update(w) or PROBLEM, PAIR, replicates=64).step(0, module)
    assert set(seen) == {"w1", "w2", "v", "tied", "mean"}


@pytest.mark.parametrize("moved", [False, True])
def test_buffers_that_were_stale_from_the_start_are_noted(moved):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), lab.nn.Stochastic(lab.Bernoulli()), nn.Linear(2, 1))
    module.eval()
    problem = lab.from_module(module, lambda y, t: (y[:, 0] - t).square(), (torch.randn(3, 2), torch.randn(3)))
    if moved:
        module[1].running_mean += 1
    for measured in (problem, problem.at(problem.weights(), "again")):
        points = Probe(measured, PAIR, replicates=64).step(0, nn.DataParallel(module))
        assert points
        for point in points:
            noted = any("'1.running_mean'" in note for note in point.finding.notes)
            assert noted is moved


def test_a_probe_tells_mistakes():
    with pytest.raises(lab.UsageError, match="every is at least 1"):
        probe(every=0)
    with pytest.raises(lab.UsageError, match="overhead positive"):
        probe(overhead=0.0)
    with pytest.raises(lab.UsageError, match="give the problem"):
        Probe(3, PAIR)
    for source, words in ((None, "found NoneType"), ({"w1": 3}, "weights by name")):
        with pytest.raises(lab.UsageError, match=words):
            probe().step(0, source)
    for step in (0.5, -1):
        with pytest.raises(lab.UsageError, match="a step is"):
            probe().step(step, PROBLEM.weights())
    with pytest.raises(lab.UsageError, match="gave NoneType; return a Problem"):
        Probe(lambda weights: None, PAIR, replicates=64).step(0, PROBLEM.weights())
    with pytest.raises(lab.UsageError, match=r"lacks .*'trajectory'"):
        probe().load_state_dict({"schema": 1})
    with pytest.raises(lab.UsageError, match=r"has weights \['w2', 'v'\]"):
        probe().step(0, {"w1": PROBLEM.weights()["w1"]})


# ------------------------------------------------------------------------------------------------ adapters
class Log:
    def __init__(self):
        self.rows = {}

    def add_scalar(self, tag, scalar_value, global_step):
        assert (tag, global_step) not in self.rows
        self.rows[tag, global_step] = scalar_value


def test_tensorboard_gets_the_same_numbers(course):
    log = Log()
    to_tensorboard(course, log)
    assert {tag.split("/")[0] for tag, _ in log.rows} == {"gradient", "gradient by layer", "loss"}
    point = course.points[0].finding
    assert log.rows["gradient/variance/ST", 0] == point.total.statistics["variance"].value
    assert log.rows["gradient by layer/mean_cosine/h1/ST", 0] == point.row("site", "h1").statistics["mean_cosine"].value
    layer = point.row("layer", "h1").statistics["descent"].value
    assert log.rows["gradient by layer/descent/h1 weights/ST", 0] == layer
    assert log.rows["loss/batch", 3] == course.losses[1].value.value
    one = Log()
    to_tensorboard(course, one, step=3)
    assert one.rows == {key: value for key, value in log.rows.items() if key[1] == 3}


def test_failures_and_trainings_are_logged():
    failed = trajectory(at, (0, 40), [Broken(), StraightThrough()], budget=256, exact=False)
    log = Log()
    to_tensorboard(failed, log)
    assert log.rows["gradient/failed", 40] == 1
    two = trajectory({"a": at, "b": at}, (0,), [StraightThrough()], budget=256, exact=False)
    log = Log()
    to_tensorboard(two, log)
    assert ("gradient/variance/ST/trained with b", 0) in log.rows


def test_tables(course, tmp_path):
    import pandas as pd

    write_table(course, tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, na_values={"value": [""], "low": [""], "high": [""]})
    np.testing.assert_array_equal(read["value"], course.to_frame()["value"])
    assert list(read["estimator"]) == list(course.to_frame()["estimator"])
    with pytest.raises(lab.UsageError, match=r"\.csv or \.parquet"):
        write_table(course, tmp_path / "t.xlsx")
    with pytest.raises(lab.UsageError, match="cannot write"):
        write_table(course, tmp_path / "no" / "t.csv")


def test_a_missing_package_is_named(course, tmp_path, monkeypatch):
    for name in ("pyarrow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(lab.UsageError, match=r"pyarrow: pip install 'estimator-lab\[tracking\]'"):
        write_table(course, tmp_path / "t.parquet")
    with pytest.raises(lab.UsageError, match=r"tensorboard: pip install 'estimator-lab\[tracking\]'"):
        to_tensorboard(course, tmp_path / "runs")


def test_parquet(course, tmp_path):
    pytest.importorskip("pyarrow")
    import pandas as pd

    write_table(course, tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet").equals(course.to_frame())


def test_a_folder_of_tensorboard(course, tmp_path):
    pytest.importorskip("tensorboard")
    to_tensorboard(course, tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir())


# ------------------------------------------------------------------------------------------------ figures, analysis
def test_figures_show_every_point(course):
    figure = draw.quality(course.points)
    axes = figure.axes
    titles = [q.title for q in draw.QUALITIES]
    assert [ax.get_title("left") for ax in axes if ax.get_visible()] == titles[:-1]
    assert "probability of descent not drawn: above 0.99 everywhere" in figure.get_supxlabel()
    unsure = replace(course.points[0].finding.total.statistics["descent"], value=0.9)
    worse = [_with_descent(course.points[0], unsure), *course.points[1:]]
    assert [ax.get_title("left") for ax in draw.quality(worse).axes] == titles
    for ax in axes[:-1]:
        assert sorted(len(line.get_xdata()) for line in ax.lines)[-1] == 3
    variance = {p.step: p.finding.total.statistics["variance"].value for p in course.of(estimator="ST")}
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), [variance[s] for s in (0, 3, 10)])
    layers = draw.quality_by_layer(course.points)
    assert [ax.get_title("left").split(":")[0] for ax in layers.axes] == ["h1"] * 3 + ["h2"] * 3
    ax = draw.losses(course.losses, "batch")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [s.value.value for s in course.losses])
    costs = {s.trained_with: 4.0 for s in course.losses}
    ax = draw.losses(course.losses, "batch", costs=costs)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1 + 4 * s.step for s in course.losses])
    assert [len(draw.training(course.losses, ["batch"], c).axes) for c in (None, costs)] == [1, 2]


def _with_descent(point, found):
    row = point.finding.total
    row = replace(row, statistics={**row.statistics, "descent": found})
    rows = tuple(row if r.level == "total" else r for r in point.finding.rows)
    return replace(point, finding=replace(point.finding, rows=rows))


def test_figures_say_what_they_cannot_show(course):
    point = course.points[0]
    gone = replace(point.finding.total, statistics={})
    bare = replace(point, finding=replace(point.finding, rows=(gone,)))
    words = draw.quality([bare, *course.of(estimator="DisARM")]).get_supxlabel().replace("\n", " ")
    assert "variance of one draw: not estimable or no place on the axis at some steps: ST" in words
    many = [
        replace(p, finding=replace(p.finding, estimator_label=f"{k}")) for k in range(10) for p in course.points[:1]
    ]
    assert "2 of 10 estimators left out" in draw.quality(many).get_supxlabel()


def test_the_analysis_runs(tmp_path, capsys):
    import trajectory as analysis

    analysis.main(["--quick", "--out", str(tmp_path)])
    first = json.loads((tmp_path / "trajectory.json").read_text())
    assert (tmp_path / "trajectory.pdf").read_bytes().startswith(b"%PDF")
    assert {s["on"] for s in first["losses"]} == {"batch", "training", "held-out"}
    assert {p["finding"]["estimator_label"] for p in first["points"]} == {"ST", LeaveOneOut(4).label}
    analysis.main(["--quick", "--out", str(tmp_path)])  # goes on: nothing is measured again, nothing is doubled
    assert json.loads((tmp_path / "trajectory.json").read_text()) == first
