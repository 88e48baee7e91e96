"""The live view: what a session does now, as a tree below the lines that scroll."""
