"""What a comparison on samples that no fit has seen predicts of real inputs."""
