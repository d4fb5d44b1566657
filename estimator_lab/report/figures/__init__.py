"""The figures of a report, each a function of findings in a file of its own.

A figure with one panel takes `ax=None` and returns the Axes; one with several panels returns the Figure. Nothing is
shown, `matplotlib.pyplot` is never imported and the global rcParams stay as they are. A value that a logarithmic axis
has no place for is named in a note under that axis, and so is what exceeds a limit on panels or lines; every colour
comes with a marker, a line style or a word. To add one to the report see `estimator_lab.report.sections`.
"""

from estimator_lab.report.figures.attribution import attribution as attribution
from estimator_lab.report.figures.bias import bias as bias
from estimator_lab.report.figures.bias import bias_by_group as bias_by_group
from estimator_lab.report.figures.bias import bias_column as bias_column
from estimator_lab.report.figures.convergence import convergence as convergence
from estimator_lab.report.figures.convergence import convergence_by_estimator as convergence_by_estimator
from estimator_lab.report.figures.convergence import convergence_by_problem as convergence_by_problem
from estimator_lab.report.figures.cost import cost as cost
from estimator_lab.report.figures.depth import depth as depth
from estimator_lab.report.figures.heat import heat as heat
from estimator_lab.report.figures.heat import heat_maps as heat_maps
from estimator_lab.report.figures.noise_split import noise_split as noise_split
from estimator_lab.report.figures.normal import normal as normal
from estimator_lab.report.figures.normal import normal_panels as normal_panels
from estimator_lab.report.figures.spread import spread as spread
from estimator_lab.report.figures.strip import cost_strip as cost_strip
from estimator_lab.report.figures.strip import resolution as resolution
from estimator_lab.report.figures.trajectory import losses as losses
from estimator_lab.report.figures.trajectory import quality as quality
from estimator_lab.report.figures.trajectory import quality_by_layer as quality_by_layer
from estimator_lab.report.figures.trajectory import training as training
from estimator_lab.report.figures.units import DOTS as DOTS
from estimator_lab.report.figures.units import LIMIT as LIMIT
from estimator_lab.report.figures.units import standardised as standardised
from estimator_lab.report.figures.units import strongest as strongest
from estimator_lab.report.figures.units import unit_maps as unit_maps
from estimator_lab.report.figures.units import units as units
