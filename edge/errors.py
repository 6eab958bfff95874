"""What can go wrong, as one small tree.

::

    EdgeError                     the user can act on it; the command line prints it as one line
    |-- SpecError                 a model spec, a variant or a name that makes no sense
    |   `-- ArgumentError         an argument of a wrong type, shape or range; a ValueError too
    |-- ModelFileError            a file that is no model, or no model of a supported kind
    |-- ArtifactError             an artifact folder that is missing, changed, failed or too new
    |-- FeedError                 arrays that do not fit the network's input
    |-- ImageError                an image that cannot be read, written or used
    |-- EngineMissingError        the package an engine needs is not installed
    |-- EngineError               an engine refused to load or run a network
    |-- ToolError                 an external program failed
    |-- StepError                 a step of a conversion broke its promise
    |-- ParityError               the answers of an artifact differ from its reference's
    |-- AccuracyError             a quantised artifact lost more accuracy than it may
    |-- DeviceError               a device that cannot be reached, refuses, or breaks off
    `-- CheckoutError             a host-only command in an installed wheel
"""

__all__ = [
    "AccuracyError",
    "ArgumentError",
    "ArtifactError",
    "CheckoutError",
    "DeviceError",
    "EdgeError",
    "EngineError",
    "EngineMissingError",
    "FeedError",
    "ImageError",
    "ModelFileError",
    "ParityError",
    "SpecError",
    "StepError",
    "ToolError",
    "first_line",
    "last_line",
]

_MOST = 300


class EdgeError(Exception):
    """Base of every error that a user can cause; its text names the fix."""


class SpecError(EdgeError):
    """A model spec, a variant or a name that makes no sense."""


class ArgumentError(SpecError, ValueError):
    """An argument of a wrong type, shape or range."""


class ModelFileError(EdgeError):
    """A file that is no model, or no model of a supported kind."""


class ArtifactError(EdgeError):
    """An artifact folder that is missing, changed, failed or too new."""


class FeedError(EdgeError):
    """Arrays that do not fit the network's input."""


class ImageError(EdgeError):
    """An image that cannot be read, written or used."""


class EngineMissingError(EdgeError):
    """The package an engine needs is not installed."""


class EngineError(EdgeError):
    """An engine refused to load or run a network."""


class ToolError(EdgeError):
    """An external program failed."""


class StepError(EdgeError):
    """A step of a conversion broke its promise."""


class ParityError(EdgeError):
    """The answers of an artifact differ from its reference's."""


class AccuracyError(EdgeError):
    """A quantised artifact lost more accuracy than it may."""


class DeviceError(EdgeError):
    """A device that cannot be reached, refuses, or breaks off."""


class CheckoutError(EdgeError):
    """A host-only command was called where only the wheel is installed."""


def first_line(said: BaseException | str | bytes) -> str:
    """The first line with words in it, of an error, a text or a program's output in UTF-8.

    At most 300 characters. Without one: the class of an error, and an empty text of the rest.
    """
    return next(iter(_lines(said)), "")


def last_line(said: BaseException | str | bytes) -> str:
    """The last line with words in it; otherwise as `first_line`."""
    return (_lines(said) or [""])[-1]


def _lines(said: BaseException | str | bytes) -> list[str]:
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines and isinstance(said, BaseException):
        return [type(said).__name__]
    return [line if len(line) <= _MOST else f"{line[: _MOST - 3]}..." for line in lines]
