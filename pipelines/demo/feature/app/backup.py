"""Writes a compressed copy of the database."""

import os
from pathlib import Path

from app.config import BACKUP_DIR, DATABASE


def backup(label):
    """Compress the database into a file that bears the label."""
    target = Path(BACKUP_DIR) / f"{label}.db.gz"
    os.system(f"gzip -c {DATABASE} > {BACKUP_DIR}/{label}.db.gz")
    return target
