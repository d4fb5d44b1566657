"""Published estimators, one per file; the table ``ESTIMATORS`` is what reports, tests and the command line run over."""

from estimator_lab.estimator import Estimator
from estimator_lab.estimators.arm import ARM
from estimator_lab.estimators.callback import Callback
from estimator_lab.estimators.controlled_flips import ControlledFlips
from estimator_lab.estimators.curve_through import CurveThrough
from estimator_lab.estimators.disarm import DisARM
from estimator_lab.estimators.drop_in import DropIn
from estimator_lab.estimators.exact import Exact
from estimator_lab.estimators.fiete_seung import FieteSeung
from estimator_lab.estimators.finite_differences import FiniteDifferences
from estimator_lab.estimators.fitted_straight_through import FittedStraightThrough
from estimator_lab.estimators.gumbel_softmax import GumbelSoftmax
from estimator_lab.estimators.held_mask import HeldMask
from estimator_lab.estimators.leave_one_out import LeaveOneOut
from estimator_lab.estimators.local_expectation import LocalExpectation
from estimator_lab.estimators.mask_score import MaskScore
from estimator_lab.estimators.mean_field import MeanField
from estimator_lab.estimators.muprop import MuProp
from estimator_lab.estimators.pathwise import Pathwise
from estimator_lab.estimators.per_site import PerSite
from estimator_lab.estimators.rebar import Rebar
from estimator_lab.estimators.reinforce import Reinforce
from estimator_lab.estimators.reinmax import ReinMax
from estimator_lab.estimators.running_reinforce import RunningReinforce
from estimator_lab.estimators.sample import Sample
from estimator_lab.estimators.spsa import SPSA
from estimator_lab.estimators.straight_through import StraightThrough
from estimator_lab.estimators.straight_through_gumbel_softmax import StraightThroughGumbelSoftmax

ESTIMATORS: tuple[Estimator, ...] = (
    Reinforce(),
    Reinforce("mean"),
    Reinforce("optimal"),
    Reinforce("unit"),
    LeaveOneOut(4),
    ARM(),
    DisARM(),
    LocalExpectation(),
    ControlledFlips(),
    MuProp(),
    Rebar(),
    Pathwise(),
    HeldMask(),
    MaskScore(),
    StraightThrough(),
    StraightThrough("identity"),
    GumbelSoftmax(),
    StraightThroughGumbelSoftmax(),
    CurveThrough(),
    FittedStraightThrough(),
    ReinMax(),
    FiniteDifferences(),
    SPSA(),
    FieteSeung(),
    MeanField(),
    Sample(),
    Exact(),
)
"""One object per method, at the settings that reports show."""

__all__ = [
    "ARM",
    "ESTIMATORS",
    "SPSA",
    "Callback",
    "ControlledFlips",
    "CurveThrough",
    "DisARM",
    "DropIn",
    "Exact",
    "FieteSeung",
    "FiniteDifferences",
    "FittedStraightThrough",
    "GumbelSoftmax",
    "HeldMask",
    "LeaveOneOut",
    "LocalExpectation",
    "MaskScore",
    "MeanField",
    "MuProp",
    "Pathwise",
    "PerSite",
    "Rebar",
    "ReinMax",
    "Reinforce",
    "RunningReinforce",
    "Sample",
    "StraightThrough",
    "StraightThroughGumbelSoftmax",
]
