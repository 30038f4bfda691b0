"""Image files as the inputs of a model: found, brought to size, normalised. Needs Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.files.decoding import decoding_explained
from lbyl_onnx.data.synthetic.images import image_layout
from lbyl_onnx.errors import CalibrationError, OptionError
from lbyl_onnx.guard.bounds import bounded, seconds_for
from lbyl_onnx.io.files import open_regular
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


# What a folder is searched for.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What a file may be, whatever its name says: Pillow gives others, as EPS, to programs to run.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pixels are known before a picture is decoded; decoded it takes up to twelve bytes for each.
MOST_PIXELS = 1 << 26
# Pixels of all images that are read together: 512 of 33 megapixels. A few kilobytes unpack to
# MOST_PIXELS, and they are decoded several times.
MOST_IN_ALL = 1 << 34
# The tag of EXIF that says how a picture lies, and its values for one on its side.
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
# Modes of 8 bits a channel, and those that Pillow makes 8 bits without loss.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True)
class ImageForm:
    """How a model takes images.

    Parameters
    ----------
    name, dtype
        Of its input.
    layout
        Where the channels are, "nchw" or "nhwc".
    channels
        1, grey, or 3, RGB.
    height, width
        None where the model takes any.
    mean, std : (channels,) float32
        Of values in [0, 1].
    """

    name: str
    dtype: np.dtype[Any]
    layout: Layout
    channels: int
    height: int | None
    width: int | None
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image; 0 for a side that is not known."""
        plane = (self.height or 0, self.width or 0)
        return (self.channels, *plane) if self.layout == "nchw" else (*plane, self.channels)


@dataclass(frozen=True)
class ImageFiles:
    """Images in files, decoded when they are read; the sides of the form are known."""

    files: tuple[Path, ...]
    form: ImageForm

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        """Return the images of these numbers as the model takes them, by the input's name.

        Raises
        ------
        CalibrationError
            When one cannot be decoded.
        """
        form = self.form
        batch = np.stack([_pixels(self.files[row], form) for row in rows])  # (b, h, w, channels)
        if form.layout == "nchw":
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        return {form.name: batch}


def form_of(
    name: str,
    dtype: np.dtype[Any],
    shape: Sequence[int | None],
    layout: Layout,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImageForm:
    """Tell how an input of rank 4 takes images.

    Raises
    ------
    CalibrationError
        When it does not take grey or RGB images of floats or bytes.
    OptionError
        When its shape does not determine the layout, or `mean` or `std` are wrong or of no use.
    """
    order = image_layout(shape) if layout == "auto" else layout
    if order is None:
        raise OptionError(
            f"the shape of input {name}, {tuple(shape)}, does not determine the axis order "
            "of images; give the layout, nchw or nhwc"
        )
    channels, height, width = shape[1:] if order == "nchw" else (shape[3], *shape[1:3])
    channels = 3 if channels is None else channels
    if channels not in (1, 3) or (dtype.kind != "f" and dtype != np.uint8):
        raise CalibrationError(
            f"input {name} takes {channels} channels of {dtype} in the layout {order}, but images "
            "give 1 or 3 of floats or uint8; give an .npz, or the right layout"
        )
    if dtype == np.uint8 and not (mean is None and std is None):
        raise OptionError(f"mean and std have no use for input {name}, which takes uint8")
    centre, spread = (
        _per_channel("mean", mean, 0.0, channels),
        _per_channel("std", std, 1.0, channels),
    )
    if np.any(np.abs(centre) > 1.0):
        raise OptionError(f"mean is {mean}, but images are in [0, 1] before it; divide it by 255")
    if np.any(spread <= 0.0):
        raise OptionError(f"std is {std}; give numbers above 0")
    return ImageForm(name, dtype, order, channels, height, width, centre, spread)


def _per_channel(
    option: str, values: Sequence[float] | None, default: float, channels: int
) -> NDArray[np.float32]:
    array = np.asarray([default] if values is None else values, np.float32)
    if array.ndim != 1 or len(array) not in (1, channels) or not np.all(np.isfinite(array)):
        raise OptionError(
            f"{option} is {values}; give {channels} finite numbers, one for each channel, or one"
        )
    return np.broadcast_to(array, (channels,))


def open_images(files: Sequence[Path], form: ImageForm, most: int = MOST_IN_ALL) -> ImageFiles:
    """Look at the head of each file, and fill a side that the model leaves open with theirs.

    Raises
    ------
    CalibrationError
        When Pillow is missing, a file is no image, they hold more than `most` pixels, or a
        side is open and the images differ.
    """
    sizes: dict[tuple[int, int], Path] = {}
    pixels = 0
    for file in files:
        with _opened(file) as picture:
            width, height = picture.size
            if picture.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
                width, height = height, width
            sizes.setdefault((width, height), file)
            pixels += width * height
        if pixels > most:
            raise CalibrationError(
                f"{file} and those before it have {pixels:,} pixels, of {most:,} at most; "
                "make the images smaller, or take fewer"
            )
    if len(sizes) > 1 and None in (form.height, form.width):
        (one, first), (other, second) = list(sizes.items())[:2]
        raise CalibrationError(
            f"{first} has {one[0]} x {one[1]} pixels, {second} {other[0]} x {other[1]}, and the "
            "model takes any size; bring all to the one that it is used with, or give that as "
            "--input-shape"
        )
    width, height = next(iter(sizes))
    resolved = replace(form, height=form.height or height, width=form.width or width)
    return ImageFiles(tuple(files), resolved)


def _pixels(file: Path, form: ImageForm) -> Array:
    """Return one image as (height, width, channels) in the form's type, normalised."""
    from PIL import Image, ImageOps  # known to be there: `open_images` has used it

    with _opened(file) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode == "P":
            upright = upright.convert("RGBA")  # transparent colours would warn otherwise
        plain = upright.convert("L" if form.channels == 1 else "RGB")
        size = (form.width or plain.width, form.height or plain.height)
        fitted = ImageOps.fit(plain, size, Image.Resampling.BILINEAR)
        values = np.asarray(fitted).reshape(size[1], size[0], form.channels)
    if form.dtype == np.uint8:
        return values
    normal = (values / np.float32(255.0) - form.mean) / form.std
    return normal.astype(form.dtype)


@contextmanager
def _opened(file: Path) -> Iterator[Picture]:
    """Open an image, for as long as work on it may take."""
    with bounded(f"decoding {file.name}", seconds_for(0)), _decoded(file) as picture:
        yield picture


@contextmanager
def _decoded(file: Path) -> Iterator[Picture]:
    """Open an image; what its decoder raises while it is open becomes one clear error."""
    library = _pillow()
    with (
        decoding_explained(file),
        warnings.catch_warnings(action="ignore"),  # of large images, of odd metadata
        open_regular(file) as stream,
        library.open(stream, formats=FORMATS) as picture,
    ):
        if picture.width * picture.height > MOST_PIXELS:
            raise CalibrationError(
                f"{file} has {picture.width} x {picture.height} pixels, of {MOST_PIXELS:,} at "
                "most; make it smaller"
            )
        if picture.mode not in _MODES:
            raise CalibrationError(
                f"{file} has pixels of mode {picture.mode}; save it with 8 bits a channel"
            )
        yield picture


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise CalibrationError(
            "Pillow, which reads images, is not installed; pip install 'lbyl-onnx[images]'"
        ) from error
    return Image
