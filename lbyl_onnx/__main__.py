"""`python -m lbyl_onnx` is `lbyl-onnx`."""

from lbyl_onnx.process.supervisor import main

main()
