"""The mistakes a user can make, each told in one line that names the thing and the remedy."""


class LabError(Exception):
    """A failure that is told in one line and ends the command line with ``exit_code``."""

    exit_code = 3


class UsageError(LabError):
    """What was asked for cannot be done as asked: a wrong name, shape, folder or file (exit code 3)."""


class TooLarge(UsageError):
    """An exact sum or product rule would need more points than fit; says what to use instead (exit code 3)."""


class NotConverged(UsageError):
    """A quadrature has not settled; says by how much (exit code 3)."""


class MeasurementError(LabError):
    """The measurement itself failed, for example on a non-finite gradient (exit code 4).

    Attributes:
        record: what had been measured before the failure, or None; nothing measured is lost.
    """

    exit_code = 4

    def __init__(self, message: str, record: object = None):
        super().__init__(message)
        self.record = record


def in_a_line(error: BaseException) -> str:
    """Kind and first line of an error that others raised."""
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(": ")
