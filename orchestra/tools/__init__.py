"""Tools of agents and steps: built in, declared in a pipeline, or written in Python."""
