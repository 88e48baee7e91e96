from app import db
from app.models import Person


def test_a_person_is_loaded_by_name(monkeypatch):
    row = {"name": "Ada", "email": "ada@example.org", "note": ""}
    monkeypatch.setattr(db, "get_person", lambda name: row)
    assert Person.load("Ada").email == "ada@example.org"
