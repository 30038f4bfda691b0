"""Compare a compressed model with the original: proof, fidelity, scores."""
