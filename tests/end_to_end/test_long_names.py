"""Names of any length, repeated as often as a model likes: reports stay linear in the model."""

from __future__ import annotations

import io
import json

import onnx
import pytest
from onnx import ModelProto
from rich.console import Console

from lbyl_onnx import CompressResult, Config, compress, inspect
from lbyl_onnx.report.html import as_html
from lbyl_onnx.report.json import as_json, inspection_as_json
from lbyl_onnx.report.origin import Origin
from lbyl_onnx.report.terminal import print_inspection, print_result
from lbyl_onnx.text import LONGEST_GROUP, LONGEST_NAME, MOST_NAMES, listed, short, shortened
from tests.support.fan import fan

LONG = 20_000


def texts(model: ModelProto) -> dict[str, str]:
    """All reports on a model."""
    options = Config(round_to=1, ratio=0.5, method="none", provider="cpu")
    result: CompressResult = compress(model, config=options, detailed=True)
    inspection = inspect(model, provider="cpu")
    tables = io.StringIO()
    console = Console(file=tables, width=200)
    print_result(result, "in.onnx", console)
    print_inspection(inspection, "in.onnx", console)
    return {
        "table": tables.getvalue(),
        "json": as_json(result, Origin("in.onnx", "lbyl-onnx", {}), "1.0"),
        "inspection": inspection_as_json(inspection, "in.onnx", "1.0"),
        "page": as_html(result, Origin("in.onnx", "lbyl-onnx", {})),
    }


def test_a_long_name_is_repeated_in_short() -> None:
    by_format = texts(fan(12, 1, "n" * LONG))
    for name, text in by_format.items():
        assert len(text) < 5 * LONG, name  # it stands in more than five places
        assert "n" * LONGEST_GROUP not in text, name
    consumer = json.loads(by_format["json"])["groups"][0]["consumers"][0]
    assert len(consumer) == LONGEST_NAME
    assert consumer.startswith("r0nnn")
    assert "..." in consumer


def test_a_long_list_ends_with_how_many_there_are_beyond() -> None:
    readers = MOST_NAMES + 36
    by_format = texts(fan(4, readers, ""))
    group = json.loads(by_format["json"])["groups"][0]
    assert len(group["consumers"]) == MOST_NAMES
    assert group["consumers"][-1] == "... and 37 more"
    for text in by_format.values():
        assert "... and 37 more" in " ".join(text.split())


def test_reports_grow_with_the_model_and_not_with_its_square() -> None:
    def size(layers: int) -> int:
        inspection = inspect(fan(layers, layers, "name" * 20), provider="cpu")
        return len(inspection_as_json(inspection, "in.onnx", "1.0"))

    assert size(2 * MOST_NAMES) < 2.2 * size(MOST_NAMES)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 10**6])
def test_short(length: int) -> None:
    text = "".join(chr(97 + n % 26) for n in range(length))
    assert short(text) == text or (len(short(text)) == 256 and length > 256)
    assert short(text)[-80:] == text[-80:]


def test_listed() -> None:
    names = [str(n) for n in range(100)]
    assert listed(names[:64]) == ", ".join(names[:64])
    assert shortened(names)[-2:] == ("62", "... and 37 more")
    assert listed([]) == ""


def test_the_page_knows_layers_with_commas_in_their_names() -> None:
    model = fan(2, 1, "")
    model.graph.node[0].name = "a, b"
    onnx.checker.check_model(model)
    page = texts(model)["page"]
    assert page.count('<tr class="pruned">') == 2
