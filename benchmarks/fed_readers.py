"""Drawn lines of text for rapidocr's recogniser, and drawn captchas for ddddocr.

Everything is drawn with the font inside Pillow; nothing drawn for scoring is a calibration sample.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.fed_case import Case, Pixels, folder_of, input_of, installed, share_equal

RATIOS = (0.1, 0.25)
SCORED, CALIBRATION = 80, 160
SCORED_SEED, CALIBRATION_SEED = 11, 12
WORDS = """\
anchor apple autumn basket beacon bicycle blanket border bottle branch bridge bucket butter cabin
candle canyon carpet castle cattle cedar chapel cherry chimney circle cliff clover coffee copper
cotton cradle cricket dagger dawn desert diamond dolphin donkey dragon eagle ember engine fabric
falcon feather fiddle finger flute forest fossil fountain fox garden ginger glacier granite guitar
hammer harbour harvest hazel helmet honey horizon hunter island ivory jacket jasmine jungle kettle
kitchen ladder lantern lemon library linen lizard magnet maple marble meadow mirror monkey mountain
needle nutmeg oasis ocean olive orchard otter oyster paddle palace parcel pebble pepper piano pigeon
pillow planet pocket potato puzzle quarry quilt rabbit ribbon river rocket saddle sailor salmon
satin shadow shelter silver spider spoon stable sugar summit sunset temple thunder ticket timber
tunnel turtle valley velvet village violin waffle wagon walnut whistle window winter wizard zebra
""".split()
SIGNS = ("", "", "", ",", ".", ":", ";", "!", "?")
CAPTCHA_LETTERS = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
CAPTCHA_SIZE = (160, 64)  # pixels; height 64 is what the client resizes to
RECOGNISER_WIDTH = 320  # pixels, of one line at the client's own least width


def recogniser(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield PP-OCRv4's recogniser of lines as rapidocr-onnxruntime uses it.

    Parameters
    ----------
    folder
        For files that the subject makes.
    limit
        Most samples that score; None for all.

    Raises
    ------
    SubjectMissingError
        When rapidocr-onnxruntime is not installed.
    """
    name = "rapidocr_onnxruntime"
    package = folder_of(name, "rapidocr-onnxruntime")
    client = installed(f"{name}.ch_ppocr_rec.text_recognize", "rapidocr-onnxruntime")
    settings = installed(f"{name}.utils", "rapidocr-onnxruntime").read_yaml(package / "config.yaml")
    path = package / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    lines = draw_lines(SCORED_SEED, SCORED)[:limit]
    images = [pixels for pixels, _ in lines]

    def read(model: Path) -> list[str]:
        reader = client.TextRecognizer(settings["Rec"] | {"model_path": str(model)})
        found, _ = reader(images)
        return [text for text, _ in found]

    before = read(path)

    def score(model: Path) -> dict[str, float]:
        after = read(model)
        trimmed = [text.strip() for text in after]
        return {
            "equal": share_equal(before, after),
            # The original reads many a margin as a blank, so that a hair decides.
            "equal, trimmed": share_equal([text.strip() for text in before], trimmed),
            "right, trimmed": share_equal([text for _, text in lines], trimmed),
        }

    reader = client.TextRecognizer(settings["Rec"] | {"model_path": str(path)})
    ratio = RECOGNISER_WIDTH / settings["Rec"]["rec_img_shape"][1]
    drawn = [pixels for pixels, _ in draw_lines(CALIBRATION_SEED, CALIBRATION)]
    samples = np.stack([reader.resize_norm_img(pixels, ratio) for pixels in drawn])
    yield Case("PP-OCRv4 recogniser", path, RATIOS, {input_of(path): samples}, score)


def captcha(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield ddddocr's newer reader of captchas; parameters and errors as of `recogniser`."""
    client = installed("ddddocr", "ddddocr")
    path = folder_of("ddddocr", "ddddocr") / "common.onnx"
    own = client.DdddOcr(show_ad=False, beta=True)  # whose model this is
    # The client takes another model together with its characters and the size of its images: these
    # are those of its own model.
    charset = folder / "ddddocr_charset.json"
    charset.write_text(
        json.dumps(
            {"charset": own.get_charset(), "word": False, "image": [-1, 64], "channel": 1},
        )
    )
    images = [png for png, _ in draw_captchas(SCORED_SEED, SCORED)][:limit]
    before = [own.classification(image) for image in images]

    def score(model: Path) -> dict[str, float]:
        reader = client.DdddOcr(
            show_ad=False, import_onnx_path=str(model), charsets_path=str(charset)
        )
        return {"equal": share_equal(before, [reader.classification(png) for png in images])}

    drawn = [Image.open(io.BytesIO(png)) for png, _ in draw_captchas(CALIBRATION_SEED, CALIBRATION)]
    # As the client prepares them: height 64, grey, 0 to 1. (160, 1, 64, width)
    grey = np.stack([np.asarray(image.convert("L"), dtype=np.float32) for image in drawn])
    samples = {input_of(path): grey[:, np.newaxis] / np.float32(255.0)}
    yield Case("ddddocr common", path, RATIOS, samples, score)


def draw_lines(seed: int, count: int) -> list[tuple[Pixels, str]]:
    """Draw lines of text in several sizes and colours.

    Returns
    -------
    list of (pixels, text)
        Pixels are uint8, [height, width, 3]; the heights and widths differ.
    """
    rng = np.random.default_rng(seed)
    return [_line(rng) for _ in range(count)]


def _line(rng: np.random.Generator) -> tuple[Pixels, str]:
    text = _phrase(rng)
    font = ImageFont.load_default(int(rng.integers(18, 44)))
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(3, 9))
    size = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
    ground, ink = _colours(rng)
    image = Image.new("RGB", size, ground)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=font)
    noise = rng.normal(0.0, rng.uniform(0.0, 8.0), (size[1], size[0], 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8), text


def _phrase(rng: np.random.Generator) -> str:
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        word = str(rng.choice(WORDS))
        style = int(rng.integers(0, 4))
        word = (word, word.capitalize(), word.upper(), word)[style]
        if rng.random() < 0.3:
            word = _number(rng)
        parts.append(word + str(rng.choice(SIGNS)))
    return " ".join(parts)


def _number(rng: np.random.Generator) -> str:
    value = int(rng.integers(0, 100_000))
    forms = (f"{value}", f"{value / 100:.2f}", f"{value % 24}:{value % 60:02d}", f"{value % 100} %")
    return str(rng.choice(forms))


def _colours(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Draw ground and ink that differ by 90 levels or more, either the lighter."""
    ground = np.clip(rng.integers(0, 256) + rng.normal(0.0, 25.0, 3), 0, 255)
    step = rng.uniform(90.0, 200.0) * (-1.0 if ground.mean() > 127.0 else 1.0)
    ink = np.clip(ground + step + rng.normal(0.0, 15.0, 3), 0, 255)
    return _rgb(ground), _rgb(ink)


def _rgb(values: NDArray[Any]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def draw_captchas(seed: int, count: int) -> list[tuple[bytes, str]]:
    """Draw short strings, turned and crossed by lines.

    Returns
    -------
    list of (PNG, text)
        All of CAPTCHA_SIZE.
    """
    rng = np.random.default_rng(seed)
    return [_captcha(rng) for _ in range(count)]


def _captcha(rng: np.random.Generator) -> tuple[bytes, str]:
    text = "".join(rng.choice(list(CAPTCHA_LETTERS), int(rng.integers(4, 6))))
    width, height = CAPTCHA_SIZE
    image = Image.new("RGB", CAPTCHA_SIZE, _rgb(rng.integers(200, 256, 3)))
    draw = ImageDraw.Draw(image)
    step = (width - 16) // len(text)
    for place, letter in enumerate(text):
        glyph = Image.new("L", (44, 56), 0)
        font = ImageFont.load_default(int(rng.integers(30, 40)))
        ImageDraw.Draw(glyph).text((10, 4), letter, fill=255, font=font)
        glyph = glyph.rotate(float(rng.uniform(-20.0, 20.0)), resample=Image.Resampling.BILINEAR)
        corner = 2 + place * step, int(rng.integers(0, 8))
        image.paste(Image.new("RGB", glyph.size, _rgb(rng.integers(0, 120, 3))), corner, glyph)
    for _ in range(int(rng.integers(1, 4))):
        ends = [int(v) for v in rng.integers(0, (width, height, width, height))]
        draw.line(ends, fill=_rgb(rng.integers(60, 200, 3)), width=1)
    for x, y in rng.integers(0, CAPTCHA_SIZE, (60, 2)):
        draw.point((int(x), int(y)), fill=_rgb(rng.integers(60, 200, 3)))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue(), text
