"""`python -m lbyl_onnx` is `lbyl-onnx`."""

from lbyl_onnx.cli import main

main(prog_name="lbyl-onnx")
