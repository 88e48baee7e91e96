"""What a person is, and the rules about it."""

from dataclasses import dataclass

from app import db


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
        if row is None:
            raise NotFoundError(name)
        return cls(row["name"], row["email"], row["note"])
