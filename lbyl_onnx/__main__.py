"""`python -m lbyl_onnx` is `lbyl-onnx`."""

from lbyl_onnx.launch import main

main()
