"""The errors that the tool raises on purpose, each with its exit code on the command line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: libraries append stacks and contexts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class LbylOnnxError(Exception):
    """Root of the tool's own errors: one line that says what was wrong, where, how to mend it."""

    exit_code = 1


class InstallationError(LbylOnnxError):
    """A package that the tool needs is broken."""


class ModelError(LbylOnnxError):
    """The input is not a model that can be read, checked or run."""


class TooSlowError(ModelError):
    """ONNX Runtime does not come to an end with the input in good time."""


class OutputError(LbylOnnxError):
    """The output cannot be written where it was asked for."""


class OptionError(LbylOnnxError):
    """An option's value is outside what it may be."""

    exit_code = 2


class TargetError(LbylOnnxError):
    """The target cannot be reached; nothing was written."""


class CalibrationError(LbylOnnxError):
    """The samples given for calibration cannot be read, or do not fit the model's inputs."""


class CompensationError(LbylOnnxError):
    """A compensated weight does not fit the type in which the model stores it."""


class QuantisationError(LbylOnnxError):
    """ONNX Runtime's quantisation tools cannot take the model; nothing was written."""


class ReportError(LbylOnnxError):
    """A file is no result of `compress --json`, or not one that this version reads."""


class VerificationError(LbylOnnxError):
    """The compressed model is not what the plan says it must be; nothing was written."""

    exit_code = 3


class NothingToPruneError(LbylOnnxError):
    """No channel group could be pruned; nothing was written."""

    exit_code = 4


class NothingSafeError(NothingToPruneError):
    """No goal was given, and nothing that is predicted safe makes the model faster."""
