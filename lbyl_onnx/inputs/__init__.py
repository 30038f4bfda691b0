"""What the graph of a model tells of its inputs."""
