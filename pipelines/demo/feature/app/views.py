"""Requests in, JSON out."""

from app import db
from app.backup import backup


def as_json(found):
    return {"name": found.name, "email": found.email, "note": found.note}


def person(request):
    from app.models import NotFoundError, Person

    try:
        found = Person.load(request.args["name"])
    except NotFoundError:
        return {"error": "no such person"}, 404
    return found.to_json(), 200


def people(request):
    return [row["name"] for row in db.list_people(int(request.args.get("limit", 50)))], 200


def search(request):
    from app import models

    return [found.to_json() for found in models.search(request.args["q"])], 200


def make_backup(request):
    return {"written": str(backup(request.args["label"]))}, 200
