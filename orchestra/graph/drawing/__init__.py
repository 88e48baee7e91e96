"""Pictures of a pipeline's graph, made of its outline alone: no network, no other program, nothing is run."""
