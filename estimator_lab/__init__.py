"""Measures bias, variance and cosine similarity of gradient estimators against ground truth.

Names are resolved on first use, so that importing the package or its command line loads neither torch nor scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AdditiveNoise": "families",
    "Attribution": "attribution",
    "Baseline": "baseline",
    "Bernoulli": "families",
    "Budget": "budget",
    "Callback": "estimators",
    "Categorical": "families",
    "Cause": "causes",
    "Comparison": "baseline_check",
    "Deepening": "attribution",
    "Deterministic": "families",
    "Diagnosis": "diagnosis",
    "Downstream": "estimator",
    "DropIn": "estimators",
    "Dropout": "families",
    "Estimator": "estimator",
    "Family": "families",
    "Finding": "finding",
    "GradientSampler": "sampler",
    "LabError": "errors",
    "LayerStatistics": "layerwise",
    "LazyDecay": "lazy_decay",
    "LevelEffect": "level",
    "MeasurementError": "errors",
    "NoiseSplit": "noise_split",
    "NoisySigmoid": "families",
    "Normal": "families",
    "Objective": "problem",
    "OneSite": "problem",
    "PerSite": "estimators",
    "Probe": "probe",
    "Problem": "problem",
    "Record": "record",
    "RectifiedLogistic": "families",
    "RectifiedNormal": "families",
    "RunningBaseline": "estimators.running_baseline",
    "Site": "site",
    "SiteSpec": "site",
    "SmallProblem": "small",
    "StochasticTimesSmooth": "families",
    "TooLarge": "errors",
    "Training": "training",
    "Trajectory": "trajectories",
    "TreeLinear": "trees",
    "Truth": "truth",
    "UsageError": "errors",
    "WeightMoments": "elementwise",
    "Witness": "witness",
    "attribute": "attribution",
    "check_estimator": "conformance",
    "compare": "study",
    "deepening": "attribution",
    "diagnose": "study",
    "exact_moments": "expectation",
    "expected_loss": "training",
    "from_module": "nn",
    "layer_statistics": "layerwise",
    "level_effect": "level",
    "measure": "measurement",
    "name_causes": "causes",
    "parametrize_with_checks": "conformance",
    "smallest_witness": "witness",
    "split_noise": "noise_split",
    "trajectory": "along",
    "weight_moments": "elementwise",
}
_ROOMS = ("estimators", "families", "nn", "problems", "report", "statistics", "tracking")

if TYPE_CHECKING:
    from estimator_lab import estimators, families, nn, problems, report, statistics, tracking
    from estimator_lab.along import trajectory
    from estimator_lab.attribution import Attribution, Deepening, attribute, deepening
    from estimator_lab.baseline import Baseline
    from estimator_lab.baseline_check import Comparison
    from estimator_lab.budget import Budget
    from estimator_lab.causes import Cause, name_causes
    from estimator_lab.conformance import check_estimator, parametrize_with_checks
    from estimator_lab.diagnosis import Diagnosis
    from estimator_lab.elementwise import WeightMoments, weight_moments
    from estimator_lab.errors import LabError, MeasurementError, TooLarge, UsageError
    from estimator_lab.estimator import Downstream, Estimator
    from estimator_lab.estimators import Callback, DropIn, PerSite
    from estimator_lab.estimators.running_baseline import RunningBaseline
    from estimator_lab.expectation import exact_moments
    from estimator_lab.families import (
        AdditiveNoise,
        Bernoulli,
        Categorical,
        Deterministic,
        Dropout,
        Family,
        NoisySigmoid,
        Normal,
        RectifiedLogistic,
        RectifiedNormal,
        StochasticTimesSmooth,
    )
    from estimator_lab.finding import Finding
    from estimator_lab.layerwise import LayerStatistics, layer_statistics
    from estimator_lab.lazy_decay import LazyDecay
    from estimator_lab.level import LevelEffect, level_effect
    from estimator_lab.measurement import measure
    from estimator_lab.nn import from_module
    from estimator_lab.noise_split import NoiseSplit, split_noise
    from estimator_lab.probe import Probe
    from estimator_lab.problem import Objective, OneSite, Problem
    from estimator_lab.record import Record
    from estimator_lab.sampler import GradientSampler
    from estimator_lab.site import Site, SiteSpec
    from estimator_lab.small import SmallProblem
    from estimator_lab.study import compare, diagnose
    from estimator_lab.training import Training, expected_loss
    from estimator_lab.trajectories import Trajectory
    from estimator_lab.trees import TreeLinear
    from estimator_lab.truth import Truth
    from estimator_lab.witness import Witness, smallest_witness

__all__ = [
    "AdditiveNoise",
    "Attribution",
    "Baseline",
    "Bernoulli",
    "Budget",
    "Callback",
    "Categorical",
    "Cause",
    "Comparison",
    "Deepening",
    "Deterministic",
    "Diagnosis",
    "Downstream",
    "DropIn",
    "Dropout",
    "Estimator",
    "Family",
    "Finding",
    "GradientSampler",
    "LabError",
    "LayerStatistics",
    "LazyDecay",
    "LevelEffect",
    "MeasurementError",
    "NoiseSplit",
    "NoisySigmoid",
    "Normal",
    "Objective",
    "OneSite",
    "PerSite",
    "Probe",
    "Problem",
    "Record",
    "RectifiedLogistic",
    "RectifiedNormal",
    "RunningBaseline",
    "Site",
    "SiteSpec",
    "SmallProblem",
    "StochasticTimesSmooth",
    "TooLarge",
    "Training",
    "Trajectory",
    "TreeLinear",
    "Truth",
    "UsageError",
    "WeightMoments",
    "Witness",
    "attribute",
    "check_estimator",
    "compare",
    "deepening",
    "diagnose",
    "estimators",
    "exact_moments",
    "expected_loss",
    "families",
    "from_module",
    "layer_statistics",
    "level_effect",
    "measure",
    "name_causes",
    "nn",
    "parametrize_with_checks",
    "problems",
    "report",
    "smallest_witness",
    "split_noise",
    "statistics",
    "tracking",
    "trajectory",
    "weight_moments",
]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name in _ROOMS:
        return import_module(f"estimator_lab.{name}")
    if name in _HOMES:
        return getattr(import_module(f"estimator_lab.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'estimator_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names."""
    return __all__
