"""Settings, all of them from the environment."""

import os

DATABASE = os.environ.get("ADDRESSBOOK_DB", "addressbook.db")
BACKUP_DIR = os.environ.get("ADDRESSBOOK_BACKUPS", "backups")
ADMIN_PASSWORD = "sunflower-42"
