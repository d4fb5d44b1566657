"""What the failed checks of an estimator look like, in words."""

import re
from collections.abc import Sequence

from estimator_lab.conformance.case import Outcome, copied
from estimator_lab.errors import LabError, in_a_line
from estimator_lab.estimator import Estimator
from estimator_lab.sampler import GradientSampler

SECONDS = 20.0
"""Time that the cause of a failure is looked for, at most."""

STATE = "a state that is kept from call to call; mend that first, what else fails may follow from it"
"""What an estimator that cannot be repeated looks like."""

CLAIM = "is unbiased"
"""How the names of checks of a claim begin."""


def is_claim(check: str) -> bool:
    """Whether a check holds a mean to what it is claimed to be."""
    return check.startswith((CLAIM, "has the mean of the other"))


def looks_like(
    subject: Estimator | GradientSampler, like: Estimator | None, failed: Sequence[Outcome]
) -> tuple[str, ...]:
    """Causes of failed checks, likeliest first; none that only repeats what a check has told.

    Args:
        subject: that failed; a copy of it is examined.
        like: another implementation with the same mean, or None.
        failed: checks, without those that were expected to fail.

    Nothing is said of wrong shapes, nor of an error of the estimator's own code, which say enough.

    Cost: that of `estimator_lab.name_causes`.
    """
    from estimator_lab.causes import name_causes

    failed = [o for o in failed if not o.error]
    if not failed or any(o.check == "has the right shapes" and "finite" not in o.told for o in failed):
        return ()
    if any(o.check == "can be repeated" for o in failed):
        return (STATE,)
    if isinstance(subject, GradientSampler):
        return tuple(dict.fromkeys(words for o in failed for words in o.causes))
    try:
        found = [cause.words for cause in name_causes(copied(subject), like=copied(like), seconds=SECONDS)]
    except (LabError, TimeoutError) as error:
        return (f"no cause could be examined: {error}",)
    except Exception as error:  # of the user's code, on problems that it was not written for
        return (f"no cause could be examined: {in_a_line(error)}",)
    told = {_without_numbers(o.told) for o in failed}
    return tuple(words for words in found if _without_numbers(words) not in told)


def _without_numbers(text: str) -> str:
    return re.sub(r"[\d.]+", "", text)
