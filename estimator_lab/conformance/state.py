"""What a draw leaves behind: in the process, in the estimator, in what it was given."""

import copy
import gc
import random
import weakref
from collections.abc import Callable

import numpy as np
import torch

from estimator_lab.conformance.case import Case, Check, Violation
from estimator_lab.conformance.structure import alike, calls, drawn, network
from estimator_lab.conformance.walk import walk
from estimator_lab.noise import MonteCarlo

GLOBALS: dict[str, tuple[Callable[[], object], Callable[..., object]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, torch.set_default_device),
    "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic flag": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "torch's matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "Python's random stream": (random.getstate, random.setstate),
    "NumPy's random stream": (np.random.get_state, np.random.set_state),
    "NumPy's error state": (np.geterr, lambda found: np.seterr(**found)),
}
"""What is global, by name: how it is read, and how it is put back."""


def changes_of(act: Callable[[], object]) -> list[str]:
    """Names of the globals that an act changes; they are put back."""
    before = {name: read() for name, (read, _) in GLOBALS.items()}
    changed: list[str] = []
    try:
        act()
    finally:
        for name, (read, put_back) in GLOBALS.items():
            if str(read()) != str(before[name]):
                changed.append(name)
                put_back(before[name])
    return changed


def touches_no_global_state(case: Case) -> None:
    """Streams, default dtype, grad mode, threads and flags are after a draw what they were before.

    With either default dtype: one that was set before, by an earlier draw, would not show.
    """
    kept = torch.get_default_dtype()
    changed: list[str] = []
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            changed += changes_of(lambda: drawn(case.chain(network(case.families[0], 2)), 4, "state", case.seed))
    finally:
        torch.set_default_dtype(kept)
    if changed:
        names = ", ".join(dict.fromkeys(changed))
        raise Violation(f"drawing changes the process: {names}; draw from site, and set nothing global")


def says_what_it_is(case: Case) -> None:
    """The repr tells the method: not an address, not the history of calls; the claim is True, False or None."""
    e = case.estimator
    name = repr(e)
    if " at 0x" in name:
        raise Violation(f"its repr holds an address, {name}: write __repr__, or make it a frozen dataclass")
    if e.unbiased not in (True, False, None):
        raise Violation(f"unbiased is True, False or None; found {e.unbiased!r}")
    if not (isinstance(e.paths, int) and e.paths >= 1):
        raise Violation(f"paths is an integer, at least 1; found {e.paths!r}")
    if repr(copy.copy(e)) != name:
        raise Violation(f"its copy has another repr: {name} and {copy.copy(e)!r}")
    drawn(case.chain(network(case.families[0], 2)), 3, "repr", case.seed)
    if repr(e) != name:
        raise Violation(f"its repr changes as it draws, from {name} to {e!r}: equal reprs mean equal methods")


def can_be_repeated(case: Case) -> None:
    """Equal seeds give equal draws, whatever was drawn before, here or elsewhere."""
    chain = case.chain(network(case.families[0], 2))
    first = drawn(chain, 6, "repeat", case.seed)
    drawn(chain, 5, "other", case.seed)
    drawn(case.chain(network(case.families[0], 1)), 5, "another", case.seed)
    again = drawn(chain, 6, "repeat", case.seed)
    for key, tensor in first.items():
        if not alike(tensor, again[key]):
            raise Violation(
                f"the gradient {key} changes from call to call on equal seeds: it keeps a state, or draws from a "
                "stream that no seed reaches; take random numbers from site, and fit constants in adapt"
            )


def leaves_what_it_is_given(case: Case) -> None:
    """Theta, the values that it passed on and the losses that came back are afterwards what they were."""
    for family in case.families:
        for call in calls(case, network(family, 2), 4):
            if call.changed:
                raise Violation(
                    f"it changes {call.changed} in place at site {call.site!r}, which others read as well: detach() "
                    "shares memory, clone() does not"
                )


def keeps_no_graph(case: Case) -> None:
    """The graph of a draw is gone with the draw: what is kept would fill the memory."""
    family = case.families[0]
    theta = torch.full((2, 2, 2, *family.theta_shape), 0.2, dtype=torch.float64, requires_grad=True)
    alive = weakref.ref(theta)
    walk(case, family, theta, MonteCarlo("graph", case.seed))
    del theta
    if alive() is not None:
        gc.collect()  # a closure that refers to itself is no leak
    if alive() is not None:
        raise Violation("it keeps the graph of a draw after the draw: store detached tensors, or none")


STATE = (
    Check("touches no global state", touches_no_global_state),
    Check("says what it is", says_what_it_is),
    Check("leaves what it is given", leaves_what_it_is_given),
    Check("keeps no graph", keeps_no_graph),
)
