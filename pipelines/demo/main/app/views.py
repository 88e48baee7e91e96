"""Requests in, JSON out."""

from app import db
from app.backup import backup
from app.models import NotFoundError, Person


def person(request):
    try:
        found = Person.load(request.args["name"])
    except NotFoundError:
        return {"error": "no such person"}, 404
    return {"name": found.name, "email": found.email, "note": found.note}, 200


def people(request):
    return [row["name"] for row in db.list_people(int(request.args.get("limit", 50)))], 200


def make_backup(request):
    return {"written": str(backup(request.args["label"]))}, 200
