"""Traces of sessions for OpenTelemetry and LangSmith: off unless the environment names where they go."""
