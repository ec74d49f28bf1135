"""Decimal numbers as they are written."""

import fractions


def exact(number: float) -> fractions.Fraction:
    """Returns a number as it is written: 0.1 is a tenth, and not the binary number next to it.

    Example:
      >>> exact(0.3) - exact(0.1) == exact(0.2)
      True
    """
    return fractions.Fraction(repr(number))
