"""The same numbers on a GPU as on a CPU. Never run so far: no machine with a GPU has been at hand."""

import pytest
import torch

import estimator_lab as lab

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class OnGpu(lab.Problem):
    """Another problem with its weights moved."""

    def __init__(self, inner):
        self.inner, self.sites, self.batch = inner, inner.sites, inner.batch

    def weights(self):
        return {k: v.cuda() for k, v in self.inner.weights().items()}

    def theta(self, weights, samples):
        return self.inner.theta(weights, samples)

    def loss(self, weights, samples, thetas):
        return self.inner.loss(weights, samples, thetas)


@pytest.mark.parametrize("problem", [*lab.problems.TOYS, *lab.problems.NETWORKS], ids=lambda p: type(p).__name__)
def test_the_truth_is_the_same(problem):
    try:
        here = lab.Truth.exact(problem)
    except lab.TooLarge:
        pytest.skip("no exact truth")
    there = lab.Truth.exact(OnGpu(problem))
    for key, gradient in here.mean.items():
        assert there.mean[key] == pytest.approx(gradient, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("estimator", lab.estimators.ESTIMATORS, ids=repr)
def test_diagnosis_runs(estimator):
    continuous = isinstance(estimator, lab.estimators.Pathwise)
    problem = lab.problems.GaussianCosine() if continuous else lab.problems.TwoLayer()
    found = lab.diagnose(estimator, on=OnGpu(problem), budget=4096)
    assert found.status != "violated"
