from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from lbyl_onnx import Config, VerificationError, __version__, compress, pipeline
from lbyl_onnx.cli import main
from lbyl_onnx.runtime import distributions, timing
from tests.support.net import Net


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


GOLDEN = """\
digits.onnx -> small.onnx
ratio 0.25, channels in steps of 8 (avx2), method lbyl+, criterion obs; ran on
CPUExecutionProvider
input input: 1 x 8 x 8, images (photographs and documents), mean 0.082,
deviation 0.97 (the BatchNormalization behind 32 filters tells it, R2 0.87)
(likely: 1 channel, as spectrograms may have, too)
               before      after                     ratio
parameters    174,314    126,506                     72.6%
MACs        3,287,680  2,461,152                     74.9%
file size    702.4 kB   511.6 kB                     72.8%
time           0.5 ms     0.5 ms  no measurable difference
fidelity on 128 synthetic samples drawn anew: <fidelity>
verified: 340 output values on 5 input shapes equal those of the reference model
(removed channels zeroed), to <rounding>
predicted equal top-1 on real inputs: <interval>

pruned 64 channels in 4 groups
producer                channels  kept  restored by      consumers
/stem/conv/Conv               32    24  lbyl+ by window  /widen/conv/Conv
/block/unit1/conv/Conv        64    48  lbyl+ by window  /block/unit2/conv/Conv
/top/conv/Conv                96    72  lbyl+            /hidden/Gemm
/hidden/Gemm                  64    48  lbyl+            /classifier/Gemm

skipped: 2 groups
producer                            channels  reason
/widen/conv/Conv,                         64  they lie on a residual stream
/block/unit2/conv/Conv                        (/block/Add)
/classifier/Gemm                          10  they are an output of the graph
                                              (/classifier/Gemm)

next: lbyl-onnx verify digits.onnx small.onnx (on data of your own: --inputs
DATA.npz --labels KEY); to quantise it, too: --quantize int8
"""


def test_what_the_user_sees(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, which has a width
    same = timing.summary([0.5] * 9, [0.5] * 9, 9)
    monkeypatch.setattr(timing, "paired", lambda *_: same)
    (tmp_path / "digits.onnx").write_bytes(sample.read_bytes())
    options = ("--ratio", "0.25", "--provider", "cpu", "--hardware", "avx2")
    result = run("compress", "digits.onnx", "small.onnx", *options)
    assert result.exit_code == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)
    screen = "\n".join(line.rstrip() for line in plain.splitlines()) + "\n"
    screen = re.sub(r"to \de-\d\d", "to <rounding>", screen)  # the order of sums is the machine's
    # The fidelity figures wrap with their digits; they are checked against the JSON below.
    screen = re.sub(r"drawn anew: (.|\n)*?\nverified", "drawn anew: <fidelity>\nverified", screen)
    screen = re.sub(
        r"inputs: [\d.]+% \([\d.]+% to [\d.]+%, by 128 mosaics\)", "inputs: <interval>", screen
    )
    assert screen == GOLDEN


@pytest.mark.parametrize("method", ["none", "nm", "lbyl", "lbyl+"])
@pytest.mark.parametrize("criterion", ["auto", "obs", "l2", "l1", "gm", "random"])
def test_every_method_and_criterion_writes_a_smaller_model(
    sample: Path, tmp_path: Path, method: str, criterion: str
) -> None:
    output = tmp_path / "out.onnx"
    result = run(
        "compress", "--ratio=0.3", sample, output, "--method", method, "--criterion", criterion
    )
    assert result.exit_code == 0, result.stderr
    assert output.stat().st_size < sample.stat().st_size


def test_json_goes_to_stdout_and_tables_to_stderr(sample: Path, tmp_path: Path) -> None:
    result = run(
        "compress", "--ratio=0.3", sample, tmp_path / "out.onnx", "--json", "-", "--round-to", "1"
    )
    report = json.loads(result.stdout)
    assert "parameters" in result.stderr
    assert report["lbyl_onnx"] == __version__
    assert report["after"]["file_size"] == (tmp_path / "out.onnx").stat().st_size
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert {g["name"]: (g["channels"], g["kept"]) for g in report["groups"]} == {
        "/stem/conv/Conv": (32, 22),
        "/block/unit1/conv/Conv": (64, 44),
        "/top/conv/Conv": (96, 67),
        "/hidden/Gemm": (64, 44),
    }
    assert [r["nodes"] for r in report["refusals"]] == [["/block/Add"], ["/classifier/Gemm"]]
    near = report["verification"]["fidelity"]
    assert 0 <= near["top1_agreement"] <= 1
    assert f"relative error {near['relative_error']:.3f}" in result.stderr


def test_json_goes_to_a_file(sample: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = run(
        "compress", "--ratio=0.3", sample, tmp_path / "out.onnx", "--json", report, "--quiet"
    )
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert json.loads(report.read_text())["options"]["method"] == "lbyl+"


def test_json_into_no_folder_is_refused_before_any_work(sample: Path, tmp_path: Path) -> None:
    result = run(
        "compress",
        "--ratio=0.3",
        sample,
        tmp_path / "out.onnx",
        "--json",
        tmp_path / "no" / "r.json",
    )
    assert result.exit_code == 1
    assert not (tmp_path / "out.onnx").exists()


def test_dry_run_writes_nothing(sample: Path, tmp_path: Path) -> None:
    result = run("compress", "--ratio=0.3", sample, tmp_path / "out.onnx", "--dry-run")
    assert result.exit_code == 0
    assert "nothing written" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_include_and_exclude_choose_producers(sample: Path, tmp_path: Path) -> None:
    options = ("--include", "/*/conv/Conv", "--exclude", "/top/*", "--json", "-")
    report = json.loads(
        run("compress", "--ratio=0.3", sample, tmp_path / "o.onnx", *options).stdout
    )
    assert [g["name"] for g in report["groups"]] == ["/stem/conv/Conv", "/block/unit1/conv/Conv"]
    reasons = {r["name"]: r["reason"] for r in report["refusals"]}
    assert reasons["/top/conv/Conv"] == "left out by --exclude"
    assert reasons["/hidden/Gemm"] == "not named by --include"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("{sample}",), 2, "give OUT.onnx"),
        (("{sample}", "{out}", "--ratio", "1"), 2, "from 0 to below 1"),
        (("{sample}", "{out}", "--ratio", "nan"), 2, "from 0 to below 1"),
        (("{sample}", "{out}", "--lambda1", "-1"), 2, "at least 0"),
        (("{sample}", "{out}", "--seed", "-1"), 2, "at least 0"),
        (("{sample}", "{out}", "--method", "magic"), 2, "'none', 'nm', 'lbyl'"),
        (("{tmp}/absent.onnx", "{out}"), 1, "does not exist"),
        (("{bare}", "{out}"), 1, "is a folder and holds no .onnx file"),
        (("{tmp}/absent.onnx", "{readme}"), 1, "does not exist"),
        (("{readme}", "{out}"), 1, "is not an ONNX model"),
        (("{empty}", "{out}"), 1, "not a valid ONNX model"),
        (("{sample}", "{tmp}/no/out.onnx"), 1, "make it first"),
        (("{sample}", "{tmp}"), 1, "not a regular file"),
        (("{sample}", "{sample}", "--force"), 1, "is the input itself"),
        (("{sample}", "{readme}"), 1, "--force"),
        (("{sample}", "{out}", "--exclude", "*"), 4, "left out by --exclude (5)"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    sample: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    places = {
        "sample": sample,
        "tmp": tmp_path,
        "out": tmp_path / "out.onnx",
        "readme": sample.parent / "README.md",
        "empty": tmp_path / "empty.onnx",
        "bare": tmp_path / "bare",
    }
    (tmp_path / "bare").mkdir()
    (tmp_path / "empty.onnx").touch()
    result = run("compress", "--ratio=0.3", *(a.format(**places) for a in arguments))
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    if "Usage:" not in result.stderr:  # click explains wrong usage in its own three lines
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


def test_a_failed_verification_writes_nothing(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise VerificationError("output y is wrong")

    output = tmp_path / "out.onnx"
    output.write_bytes(b"what was there before")
    monkeypatch.setattr(pipeline, "verify", fail)
    result = run("compress", "--ratio=0.3", sample, output, "--force")
    assert (result.exit_code, result.stderr) == (
        3,
        f"lbyl-onnx: error: {sample}: output y is wrong\n",
    )
    assert output.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [output]


def test_a_fault_of_ours_is_one_line_and_with_debug_a_traceback(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(pipeline, "rewrite", fail)
    result = run("compress", "--ratio=0.3", sample, tmp_path / "out.onnx")
    assert result.exit_code == 1
    assert "internal error: KeyError" in result.stderr
    assert isinstance(
        run("compress", "--ratio=0.3", sample, tmp_path / "o.onnx", "--debug").exception, KeyError
    )


def test_ctrl_c_leaves_130_and_no_output(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "verify", interrupt)
    assert run("compress", "--ratio=0.3", sample, tmp_path / "out.onnx").exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_same_command_same_bytes_whatever_the_hash_seed(sample: Path, tmp_path: Path) -> None:
    written = []
    for seed in ("0", "1"):
        output = tmp_path / f"{seed}.onnx"
        command = [
            sys.executable,
            "-m",
            "lbyl_onnx",
            "compress",
            "--ratio=0.3",
            str(sample),
            str(output),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        assert done.stderr == b""  # piped: no progress bar
        written.append(output.read_bytes())
    assert written[0] == written[1]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_the_output_has_the_mode_of_any_new_file(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert run("compress", "--ratio=0.3", sample, tmp_path / "out.onnx").exit_code == 0
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", "out.onnx")]
    assert modes[0] == modes[1]


def test_names_that_would_move_the_cursor_are_spelled_out(sample: Path, tmp_path: Path) -> None:
    model = onnx.load(sample)
    model.graph.node[0].name = "stem\x1b[2J[red]"
    source = tmp_path / "in.onnx"
    onnx.save(model, source)
    result = run("compress", "--ratio=0.3", source, tmp_path / "out.onnx")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "stem\\x1b[2J[red]" in result.stdout


def test_two_onnxruntimes_are_warned_of(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "runtimes", lambda: {"onnxruntime": "1", "ort-nightly": "2"})
    result = run("compress", "--ratio=0.3", sample, tmp_path / "out.onnx")
    assert result.exit_code == 0
    assert "warning: onnxruntime and ort-nightly are both installed" in result.stderr
    assert "uninstall both" in result.stderr


def test_version_and_help() -> None:
    assert __version__ in run("--version").stdout
    assert "--ratio" in run("compress", "--ratio=0.3", "--help").stdout


class TestInspect:
    def test_groups_shares_and_refusals_are_shown(
        self, sample: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "160")
        result = run("inspect", sample)
        assert result.exit_code == 0
        lines = [line.split() for line in result.stdout.splitlines()]
        # stem: its Conv (288) and BatchNormalization (128), and all the Conv that reads it (18432).
        share = f"{(288 + 128 + 18432) / 174314:.1%}"
        assert ["/stem/conv/Conv", "32", share] in [line[:3] for line in lines]
        assert "they lie on a residual stream (/block/Add)" in result.stdout

    def test_piped_each_row_is_one_line_at_any_width(
        self, sample: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        screens = []
        for columns in ("20", "80", "300"):
            monkeypatch.setenv("COLUMNS", columns)
            screens.append(run("inspect", sample).stdout)
        assert len(set(screens)) == 1
        (row,) = [line for line in screens[0].splitlines() if "/block/unit1/bn" in line]
        assert row.startswith("/block/unit1/conv/Conv ")
        assert row.endswith("/block/unit1/bn/BatchNormalization  /block/unit2/conv/Conv")
        assert screens[0].endswith(f"\n\nnext: lbyl-onnx compress {sample} OUT.onnx\n")

    def test_what_is_within_reach_is_told(self, sample: Path, tmp_path: Path) -> None:
        result = run("inspect", sample, "--json", tmp_path / "report.json")
        reach = json.loads((tmp_path / "report.json").read_text())["reach"]
        # The least model by hand: a channel each of stem, unit1 and top, and of the hidden layer.
        least = compress(
            sample, config=Config(round_to=1, ratio=0.999, method="none", provider="cpu")
        ).after
        assert reach["parameters"] == pytest.approx(1 - least.parameters / 174_314)
        assert reach["macs"] == pytest.approx(1 - least.macs / 3_287_680)
        line = f"within reach: {reach['parameters']:.1%} of parameters, {reach['macs']:.1%} of MACs"
        assert line in " ".join(result.stderr.split())

    def test_nothing_is_within_reach_where_nothing_can_go(self, tmp_path: Path) -> None:
        net = Net((1, 4))
        onnx.save(net.model(net.gemm("x", 4, 10)), tmp_path / "m.onnx")
        result = run("inspect", tmp_path / "m.onnx")
        assert result.exit_code == 0
        assert "within reach: 0.0% of parameters, 0.0% of MACs" in result.stdout
        assert "0 channel groups" in result.stdout
        assert "producers" not in result.stdout

    def test_scope_all_takes_the_residual_stream(self, sample: Path) -> None:
        report = json.loads(run("inspect", sample, "--scope", "all", "--json", "-").stdout)
        producers = [group["producers"] for group in report["groups"]]
        assert ["/widen/conv/Conv", "/block/unit2/conv/Conv"] in producers
        assert [r["reason"] for r in report["refusals"]] == ["they are an output of the graph"]

    def test_a_missing_model_is_one_line(self, tmp_path: Path) -> None:
        result = run("inspect", tmp_path / "absent.onnx")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
