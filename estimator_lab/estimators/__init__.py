"""Published estimators, one per file; the table ``ESTIMATORS`` is what reports, tests and the command line run over."""

from estimator_lab.estimator import Estimator
from estimator_lab.estimators.arm import ARM
from estimator_lab.estimators.callback import Callback
from estimator_lab.estimators.controlled_flips import ControlledFlips
from estimator_lab.estimators.disarm import DisARM
from estimator_lab.estimators.drop_in import DropIn
from estimator_lab.estimators.exact import Exact
from estimator_lab.estimators.gumbel_softmax import GumbelSoftmax
from estimator_lab.estimators.leave_one_out import LeaveOneOut
from estimator_lab.estimators.local_expectation import LocalExpectation
from estimator_lab.estimators.mean_field import MeanField
from estimator_lab.estimators.muprop import MuProp
from estimator_lab.estimators.pathwise import Pathwise
from estimator_lab.estimators.per_site import PerSite
from estimator_lab.estimators.rebar import Rebar
from estimator_lab.estimators.reinforce import Reinforce
from estimator_lab.estimators.reinmax import ReinMax
from estimator_lab.estimators.sample import Sample
from estimator_lab.estimators.straight_through import StraightThrough
from estimator_lab.estimators.straight_through_gumbel_softmax import StraightThroughGumbelSoftmax

ESTIMATORS: tuple[Estimator, ...] = (
    Reinforce(),
    Reinforce("mean"),
    Reinforce("optimal"),
    LeaveOneOut(4),
    ARM(),
    DisARM(),
    LocalExpectation(),
    ControlledFlips(),
    MuProp(),
    Rebar(),
    Pathwise(),
    StraightThrough(),
    StraightThrough("identity"),
    GumbelSoftmax(),
    StraightThroughGumbelSoftmax(),
    ReinMax(),
    MeanField(),
    Sample(),
    Exact(),
)
"""One object per method, at the settings that reports show."""

__all__ = [
    "ARM",
    "ESTIMATORS",
    "Callback",
    "ControlledFlips",
    "DisARM",
    "DropIn",
    "Exact",
    "GumbelSoftmax",
    "LeaveOneOut",
    "LocalExpectation",
    "MeanField",
    "MuProp",
    "Pathwise",
    "PerSite",
    "Rebar",
    "ReinMax",
    "Reinforce",
    "Sample",
    "StraightThrough",
    "StraightThroughGumbelSoftmax",
]
