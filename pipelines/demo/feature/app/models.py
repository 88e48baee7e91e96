"""What a person is, and the rules about it."""

from dataclasses import dataclass

from app import db
from app.views import as_json


class NotFoundError(Exception):
    """There is no such person."""


@dataclass
class Person:
    name: str
    email: str
    note: str = ""

    @classmethod
    def load(cls, name):
        row = db.get_person(name)
        return cls(row["name"], row["email"], row["note"])

    def to_json(self):
        return as_json(self)


def search(term):
    """Return the people that a term finds."""
    return [Person(row["name"], row["email"], row["note"]) for row in db.search_people(term)]
