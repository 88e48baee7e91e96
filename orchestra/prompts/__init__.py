"""Prompt files: finding them, composing their layers, rendering tasks."""
