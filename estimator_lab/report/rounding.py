"""Numbers as text, with the digits that their standard error supports."""

from __future__ import annotations

import math

ABSENT = "–"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """`10ᵏ` in Unicode, e.g. `10⁻³`."""
    return f"10{str(exponent).translate(_RAISED)}"


def last_digit(error: float) -> int:
    """The decimal place (as a power of ten) of the last digit that a standard error supports.

    The rule of the Particle Data Group (Review of Particle Physics, introduction, section 5.3): an error whose
    leading digits are 100 to 354 is given with two digits, 355 to 949 with one, 950 to 999 as 1000 with two.

    Raises:
        ValueError: if the error is not positive and finite.
    """
    if not (math.isfinite(error) and error > 0):
        raise ValueError(f"a standard error must be positive and finite, got {error!r}")
    place = math.floor(math.log10(error))
    lead = error / 10.0**place
    return place - 1 if lead < 3.55 else place


def rounded(value: float, error: float = math.nan, most: int = 5) -> str:
    """`value` rounded to what its standard error supports.

    Without a usable error (nan, infinite, zero) three significant digits are kept; never more than `most`. Values
    under 10⁻³ or from 10⁶ on are written with a power of ten; what rounds to zero is `0`. Nan becomes a dash.
    """
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if math.isfinite(error) and error > 0:
        place = last_digit(error)
    elif value == 0:
        return "0"
    else:
        place = math.floor(math.log10(abs(value))) - 2
    if value != 0:
        place = max(place, math.floor(math.log10(abs(value))) - most + 1)
    number = round(value, -place)
    if number == 0:
        return "0" if place >= 0 else f"{0:.{-place}f}" if place > -4 else "0"
    if not (math.isfinite(error) and error > 0):  # digits that nothing vouches for: no trailing zeros
        while place < 0 and math.isclose(number, round(number, -place - 1), rel_tol=1e-12):
            place += 1
    exponent = math.floor(math.log10(abs(number)) + 1e-12)
    if -4 < exponent < 6 and place > -7:
        text = f"{number:,.{max(0, -place)}f}".replace(",", "\u202f")
    else:
        text = f"{number / 10.0**exponent:.{max(0, exponent - place)}f}\u202f×\u202f{power_of_ten(exponent)}"
    return text.replace("-", "−")


def count(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return rounded(value) if not math.isfinite(value) else f"{round(value):,}".replace(",", "\u202f")


def p_value(p: float) -> str:
    """A p-value: three decimals, below 0.001 one digit and a power of ten."""
    if math.isnan(p):
        return ABSENT
    if p >= 0.001:
        return f"{p:.3f}"
    if p < 1e-300:
        return f"< {power_of_ten(-300)}"
    digit, exponent = f"{p:.0e}".split("e")
    return f"{digit}\u202f×\u202f{power_of_ten(int(exponent))}"
