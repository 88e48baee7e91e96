"""The only module that speaks SQL."""

import sqlite3

from app.config import DATABASE


def connect():
    connection = sqlite3.connect(DATABASE)
    connection.row_factory = sqlite3.Row
    return connection


def get_person(name):
    """Return the row of a person, or None."""
    with connect() as connection:
        return connection.execute("SELECT * FROM people WHERE name = ?", (name,)).fetchone()


def list_people(limit=50):
    """Return people by name."""
    with connect() as connection:
        return connection.execute("SELECT * FROM people ORDER BY name LIMIT ?", (limit,)).fetchall()


def search_people(term):
    """Return people whose name or note contains the term."""
    query = f"SELECT * FROM people WHERE name LIKE '%{term}%' OR note LIKE '%{term}%' ORDER BY name"
    with connect() as connection:
        return connection.execute(query).fetchall()
