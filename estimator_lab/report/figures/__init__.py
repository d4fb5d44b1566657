"""The figures of a report, each a function of findings in a file of its own.

A figure with one panel takes `ax=None` and returns the Axes; one with several panels returns the Figure. Nothing is
shown, `matplotlib.pyplot` is never imported and the global rcParams stay as they are. A value that a logarithmic axis
has no place for is named in a note under that axis, and so is what exceeds a limit on panels or lines; every colour
comes with a marker, a line style or a word. To add one to the report see `estimator_lab.report.sections`.
"""

from estimator_lab.report.figures.bias import bias, bias_by_group, bias_column
from estimator_lab.report.figures.convergence import convergence, convergence_by_estimator, convergence_by_problem
from estimator_lab.report.figures.cost import cost
from estimator_lab.report.figures.heat import heat, heat_maps
from estimator_lab.report.figures.spread import spread
from estimator_lab.report.figures.strip import cost_strip, resolution
from estimator_lab.report.figures.units import standardised, strongest, unit_maps, units

__all__ = [
    "bias",
    "bias_by_group",
    "bias_column",
    "convergence",
    "convergence_by_estimator",
    "convergence_by_problem",
    "cost",
    "cost_strip",
    "heat",
    "heat_maps",
    "resolution",
    "spread",
    "standardised",
    "strongest",
    "unit_maps",
    "units",
]
