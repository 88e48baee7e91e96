"""Agents: models, the harness that runs a turn, the scripted model."""
