"""What a user may say of an input, and what is wrong with the rest."""

from __future__ import annotations

import pytest

from lbyl_onnx.errors import OptionError
from lbyl_onnx.input_options.kinds import KINDS, InputChoice, read_choices


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("photo", InputChoice("", "photo")),
        ("x=document", InputChoice("x", "document")),
        ("a=b=mask", InputChoice("a=b", "mask")),
        ("x=photo,range=0..255", InputChoice("x", "photo", range=(0.0, 255.0))),
        ("x=photo,range=-1..1", InputChoice("x", "photo", range=(-1.0, 1.0))),
        (
            "photo,mean=0.485,0.456,0.406,std=0.229,0.224,0.225,size=48x320",
            InputChoice(
                *("", "photo"),
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
                size=(48, 320),
            ),
        ),
        ("ids=tokens,vocab=30522,size=128", InputChoice("ids", "tokens", size=(128,), vocab=30522)),
        ("x=constant:-1.5", InputChoice("x", "constant", value=-1.5)),
        ("wave=waveform,size=16000", InputChoice("wave", "waveform", size=(16000,))),
    ],
)
def test_what_is_read(text: str, choice: InputChoice) -> None:
    assert read_choices(text) == read_choices([text]) == (choice,)
    assert read_choices((choice,)) == (choice,)


def test_a_mapping_gives_the_names() -> None:
    assert read_choices({"x": "photo,size=32", "m": "mask"}) == (
        InputChoice("x", "photo", size=(32,)),
        InputChoice("m", "mask"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=foto", r"no kind 'foto' \(did you mean photo\?\); the kinds are image, photo"),
        ("x=zebra", f"no kind 'zebra'; the kinds are {', '.join(KINDS)}"),
        ("x=", "no kind ''"),
        ("x=constant", "constant:VALUE"),
        ("x=photo:3", "constant:VALUE"),
        ("x=constant:nan", "'nan' is no finite number"),
        ("x=photo,range=3", "give LOW..HIGH, as 0..255"),
        ("x=photo,range=5..1", "give LOW..HIGH"),
        ("x=photo,std=0", "std is not above 0"),
        ("x=photo,mean=a", "'a' is no finite number"),
        ("x=photo,size=0x4", "give HEIGHTxWIDTH"),
        ("x=photo,size=4,5", "'5' has no meaning"),
        ("x=photo,size=9999999999", "give HEIGHTxWIDTH"),
        ("x=photo,vocab=3", "vocab says nothing of a photo; give range, mean, std, size"),
        ("x=tokens,vocab=-3", "give the number of tokens"),
        ("x=mask,range=0..1", "range says nothing of a mask; give size"),
        ("x=constant:1,size=3", "size says nothing of a constant; give the kind alone"),
        ("x=photo,colour=3", "colour says nothing of a photo"),
        ("x=photo,mean=1,mean=2", "gives mean twice"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_choices(text)


def test_an_input_is_named_once() -> None:
    with pytest.raises(OptionError, match="two things of x"):
        read_choices(["x=photo", "x=mask"])


@pytest.mark.parametrize("value", [3, None, [3], ""])
def test_other_types_are_told_what_to_give(value: object) -> None:
    with pytest.raises(TypeError, match="NAME=KIND"):
        read_choices(value)
