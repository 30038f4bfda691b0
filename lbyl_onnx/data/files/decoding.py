"""What the decoders of images and sounds raise, as one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lbyl_onnx.errors import CalibrationError, LbylOnnxError, first_line


@contextmanager
def decoding_explained(file: Path) -> Iterator[None]:
    """Turn what a decoder raises for a file into one clear error; our own pass.

    Raises
    ------
    CalibrationError
        In place of whatever else is raised in the block.
    """
    try:
        yield
    except LbylOnnxError:
        raise
    except Exception as error:  # decoders raise what they like for a damaged file
        raise CalibrationError(
            f"{file} cannot be decoded: {first_line(error)}; mend it or take it away"
        ) from error
