"""Forks: a new session that leaves another one at a checkpoint; the other is only read (DESIGN §5.10).

All is proven before anything is pinned: that the checkpoint can be read, its objects are there, the pipeline fits it
and the state may be changed as asked. The fork is there when its database has its name; its branches come after that,
and a resume makes them where a kill came between.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestra.agents.context import SESSION_SLOT
from orchestra.errors import GitError, PipelineError, SessionError
from orchestra.graph.loader import load_pipeline
from orchestra.graph.project import is_shipped
from orchestra.graph.resolve import resolve
from orchestra.runtime.creation import nothing_started, session_in_the_making, sweep
from orchestra.runtime.edits import Moment, apply_edits, asked_anew, decided_already
from orchestra.runtime.failpoints import failpoint
from orchestra.runtime.fitting import fit, graph_states, open_ones
from orchestra.runtime.forking import START, Draft, is_hash
from orchestra.runtime.frozen import freeze, read_frozen, resolve_frozen
from orchestra.runtime.git import GitManager, RefUpdate
from orchestra.runtime.inbox import Inbox
from orchestra.runtime.observability import Event
from orchestra.runtime.pinning import keep_objects, missing_from
from orchestra.runtime.removal_mark import is_half_removed, refuse_half_removed
from orchestra.runtime.store import SessionRecord, Status, now, read_session
from orchestra.runtime.telemetry.switches import TRACE_CONTEXT, carrier
from orchestra.runtime.turns import move_branch, session_branch
from orchestra.runtime.workspace import Workspace
from orchestra.runtime.worktree import is_safe_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.graph.project import Project
    from orchestra.graph.resolved import ResolvedPipeline
    from orchestra.runtime.driver_lock import DriverLock
    from orchestra.runtime.edits import Edit
    from orchestra.runtime.store import SessionFiles
    from orchestra.runtime.worktree import WorktreeManager

MOST_SHOWN = 100
"""Characters of a change that are kept to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be different in a fork."""

    edits: Sequence[Edit] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Name → text, as of `run --input`."""
    provider: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    """Agent → alias or name of a model."""
    pipeline: Path | None = None
    """Another pipeline file."""

    @property
    def set_something(self) -> bool:
        """Whether values of the state are set."""
        return bool(self.edits or self.inputs)

    def in_words(self) -> list[str]:
        """Return them as options of `replay`, for whoever looks at the fork later; long values are cut."""
        options = [
            *(f"--set {edit.shown}={_as_typed(edit.value)}" for edit in self.edits),
            *(f"--input {name}={value}" for name, value in self.inputs.items()),
            *([f"--provider {self.provider}"] if self.provider else []),
            *(f"--model {agent}={model}" for agent, model in self.models.items()),
            *([f"--pipeline {self.pipeline.name}"] if self.pipeline else []),
        ]
        lines = [" ".join(option.split()) for option in options]
        return [line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN - 1]}…" for line in lines]


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, slots=True)
class Fork:
    """A session that has just been made of another one; its lock is held."""

    files: SessionFiles
    lock: DriverLock
    about: Mapping[str, Any]
    """What `log` shows of the checkpoint."""
    forked_from: Mapping[str, str]
    events: Sequence[Event]
    """What whoever started it is to be shown."""


@asynccontextmanager
async def forked(
    project: Project, source: SessionFiles, checkpoint: Mapping[str, Any], changes: Changes, *, goes_on: bool
) -> AsyncIterator[Fork]:
    """Make a session that leaves another one at a checkpoint, and hold its lock while the body runs.

    Args:
        project: Where the sessions live.
        source: The session that is left; it may be running.
        checkpoint: A row of `log --json`.
        changes: What is to be different.
        goes_on: It is going to be driven at once, so that its models must be there.

    Raises:
        PipelineError: A change can't be made, or a changed pipeline does not fit; nothing was made.
        SessionError: The source can't be read, or was removed meanwhile.
        GitError: A repository or an object that the checkpoint names is not there.
    """
    with nothing_started():
        record = read_session(source)
        refuse_half_removed(source)
        reader = GitManager()
        await reader.version()
        workspace = await Workspace.reopen(reader, record.workspace)
        pipeline = _pipeline(project, source, record, changes)
        if pipeline.model_problems and goes_on:
            raise PipelineError.of(pipeline.model_problems)
        for agent in pipeline.agents.values() if goes_on else ():
            pipeline.resolver.build(agent.model, agent=agent.name, turn=1)  # a wrong option shows only here
    with suppress(OSError):  # what a kill left can wait
        await sweep(project.root)
    paths = [repo.repository.top or repo.repository.git_dir for repo in workspace.repos.values()]
    async with session_in_the_making(project.root, paths) as (files, lock):
        git = GitManager(lock_fds=[lock.fd], session=files.session_id)
        git.overrides = reader.overrides
        making = _Making(project, record, files, git, workspace, pipeline, changes)
        with _gone_named(source):
            about = await making.run(checkpoint)
        failpoint("fork-made")
    try:
        await making.make_branches()
        came_from = {"session_id": record.session_id, "checkpoint_id": str(checkpoint["checkpoint_id"])}
        yield Fork(files, lock, about, came_from, making.told)
    finally:
        lock.release()


@contextmanager
def _gone_named(source: SessionFiles) -> Iterator[None]:
    """Say so where the body fails because a cleanup has removed the session that is left."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if source.database.exists():
            raise
        raise SessionError(
            f"the session {source.session_id} was removed while it was being forked",
            code="session-removed",
            hint="`orchestra status` shows the sessions that there are",
        ) from error


def _pipeline(project: Project, source: SessionFiles, record: SessionRecord, changes: Changes) -> ResolvedPipeline:
    settings = record.settings
    if changes.pipeline is None:
        return resolve_frozen(source, project.root, settings, provider=changes.provider, models=changes.models)
    own = project.for_shipped() if is_shipped(changes.pipeline) else project
    return resolve(
        load_pipeline(changes.pipeline, project=own),
        own,
        provider=changes.provider or settings.get("provider"),
        models={**settings.get("models", {}), **changes.models},
    )


class _Making:
    """The steps in which a fork is made."""

    def __init__(
        self,
        project: Project,
        source: SessionRecord,
        files: SessionFiles,
        git: GitManager,
        workspace: Workspace,
        pipeline: ResolvedPipeline,
        changes: Changes,
    ) -> None:
        self._project = project
        self._source = source
        self._files = files
        self._git = git
        self._workspace = workspace
        self._pipeline = pipeline
        self._changes = changes
        self._draft = Draft(files.draft)
        self._points: dict[str, str] = {}
        """Repo → where its branch begins."""
        self.told: list[Event] = []

    async def run(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        namespace, identity = str(checkpoint["checkpoint_ns"]), str(checkpoint["checkpoint_id"])
        is_changed = bool(self._changes.set_something or self._changes.pipeline)
        unended = asked_anew(self._pipeline, checkpoint["ended"]) if self._changes.set_something else {}
        about, held = await asyncio.to_thread(self._draft.take, self._source.files, namespace, identity, unended)
        inputs = self._source.inputs
        if is_changed:
            inputs = await asyncio.to_thread(self._change, namespace, held, unended)
        self._points = {**self._workspace.bases, **self._draft.branch_points()}
        await self._prove(identity, about)
        self._copy_files()
        failpoint("fork-files-copied")
        await self._pin(about["repos"].values())
        if is_half_removed(self._source.files) or not self._source.files.database.exists():
            await self._prove(identity, about)  # what its references kept may have been pruned before it was pinned
        await self._choose_branches()
        forked: dict[str, Any] = {
            "session_id": self._source.session_id,
            "checkpoint_id": identity,
            "checkpoint_ns": namespace,
        }
        if words := self._changes.in_words():
            forked["changes"] = words
        record = self._record(inputs, {**forked, "seq": about["seq"] - bool(unended)})
        event = await asyncio.to_thread(self._draft.settle, record, forked)
        warnings = decided_already(self._pipeline, about["ended"], held, unended) if is_changed else []
        self.told = [event, *(Event(0, event.time, "warning", payload={"message": text}) for text in warnings)]
        self._copy_answers(self._draft.answered())
        failpoint("database-drafted")
        self._files.draft.rename(self._files.database)
        failpoint("fork-there")
        return about

    def _change(self, namespace: str, held: Mapping[str, Any], unended: Mapping[str, int]) -> dict[str, Any]:
        """Change the state as asked; gives the inputs as they are then."""
        changes = self._changes
        opened = open_ones(self._draft.newest())
        if changes.pipeline:
            before = read_frozen(self._source.files, self._project.root, self._source.settings)
            fit(self._pipeline, opened, self._workspace.repos, before)
        changed = graph_states(self._pipeline, opened)
        if namespace not in {one.namespace for one in changed}:  # inside a turn: what the graph around it has
            around = [one for one in changed if namespace.startswith(one.namespace)]
            namespace, held = around[-1].namespace, around[-1].state
        moment = Moment(opened=changed, namespace=namespace, held=held.get(START) or held, unended=unended)
        new = apply_edits(self._pipeline, moment, self._source.inputs, changes.inputs, changes.edits)
        for one in changed:
            self._draft.replace(one)
        if unended:
            self._draft.take_back(namespace, new.fields, new.outputs)
        return new.inputs

    async def _prove(self, identity: str, about: Mapping[str, Any]) -> None:
        """Prove that every object is there before anything is pinned."""
        problems = []
        snapshots = [one.state.get("snapshot") or {} for one in open_ones(self._draft.newest())]
        slots = [repos for snapshot in snapshots for repos in snapshot.values()]
        for name, repo in self._workspace.repos.items():
            _refuse_forged(about, name, self._points[name])
            commits = {repo.base, self._points[name], *(about[key][name] for key in ("repos", "integrated"))}
            commits |= {str(entry["commit"]) for repos in slots if (entry := repos.get(name))}
            missing = await missing_from(self._git, repo.repository, commits)
            if missing:
                where = repo.repository.top or repo.repository.git_dir
                problems.append(f"{name} ({where}): {missing}")
        if problems:
            raise GitError(
                f"files of the checkpoint {identity} can't be read any more: {'; '.join(problems)}",
                code="objects-missing",
                hint="they were pruned or damaged; fork at another checkpoint, or fetch the objects from a copy of the "
                "repository",
            )

    def _copy_files(self) -> None:
        source = self._source.files
        if self._changes.pipeline is None:
            shutil.copytree(source.pipeline, self._files.pipeline, symlinks=True)
        else:
            freeze(self._pipeline, self._project, self._files.pipeline)
        if source.copies.is_dir():
            shutil.copytree(source.copies, self._files.copies, symlinks=True)

    async def _pin(self, shown: Iterable[str]) -> None:
        named = await asyncio.to_thread(self._draft.named_commits) | set(shown)
        session = self._files.session_id
        prefix = f"refs/orchestra/{session}"
        for repo in self._workspace.repos.values():
            await self._git.update_refs(repo.repository, [RefUpdate(f"{prefix}/base", repo.base, None)])
            failpoint("fork-base-pinned")
            await keep_objects(self._git, repo.repository, f"{prefix}/fork", repo.base, named, session=session)

    async def _choose_branches(self) -> None:
        """Give the fork branches of its own, where the source has one or an agent may write now."""
        writable = {repo for node in self._pipeline.nodes.values() for repo in node.writes}
        for name, repo in self._workspace.repos.items():
            branch = None
            spec = self._pipeline.pipeline.workspace.repos.get(name)
            if name in writable or repo.branch is not None:
                prefix = spec.branch_prefix if spec else "orchestra/"
                branch = await session_branch(
                    self._git,
                    repo.repository,
                    prefix=prefix,
                    pipeline=self._pipeline.pipeline.name,
                    session=self._files.session_id,
                )
            self._workspace.repos[name] = replace(repo, branch=branch)

    def _record(self, inputs: Mapping[str, Any], forked: Mapping[str, Any]) -> SessionRecord:
        changes, settings, created_at = self._changes, dict(self._source.settings), now()
        if changes.pipeline is not None:
            path = self._pipeline.document.path
            settings |= {"file": path.name, "shipped": is_shipped(path), "imports": str(path.parent)}
        settings |= {
            "directory": str(self._files.directory.resolve()),
            "provider": changes.provider or settings.get("provider"),
            "models": {**settings.get("models", {}), **changes.models},
            "forked_from": dict(forked),
            TRACE_CONTEXT: carrier(),
        }
        return SessionRecord(
            session_id=self._files.session_id,
            pipeline=self._pipeline.pipeline.name,
            status=Status.CREATED,
            created_at=created_at,
            updated_at=created_at,
            inputs=dict(inputs),
            workspace=self._workspace.as_json(),
            settings=settings,
            usage={},
            files=self._files,
        )

    def _copy_answers(self, answered: Iterable[str]) -> None:
        """Take over what people have said up to the checkpoint: an agent that fails must know that it was heard."""
        source, own = Inbox(self._source.files), Inbox(self._files)
        for question in answered:
            answer = source.answer(question)
            if answer is not None:
                own.give(question, answer.text, by=answer.by)

    async def make_branches(self) -> None:
        """Let the fork's branches begin where the source's were."""
        for name, repo in self._workspace.repos.items():
            if repo.branch is not None:
                point = self._points[name]
                session = self._files.session_id
                await move_branch(self._git, repo.repository, repo.branch, point, None, session=session)
                failpoint("fork-branch-made")


def _refuse_forged(about: Mapping[str, Any], repo: str, point: str) -> None:
    """Refuse what no checkpoint of ours says of a repository: it would go to git and into paths."""
    commits = [point, *(about[key][repo] for key in ("repos", "integrated"))]
    slot = about.get("slots", {}).get(repo, SESSION_SLOT)
    if not all(is_hash(commit) for commit in commits) or not is_safe_name(slot):
        raise SessionError(
            f"a checkpoint names what is no commit or no worktree of {repo!r}",
            code="untrusted-checkpoint",
            hint="the database was changed or made by another program: don't use it",
        )


async def lay_out(worktrees: WorktreeManager, workspace: Workspace, about: Mapping[str, Any]) -> dict[str, str]:
    """Make the worktree of every repo with the files of a checkpoint; gives repo → directory.

    Args:
        worktrees: Makes them.
        workspace: The fork's repositories; a bare one gets none.
        about: What `log` shows of the checkpoint.
    """
    found = {}
    for name, repo in workspace.repos.items():
        if repo.repository.top is not None:
            slot = about.get("slots", {}).get(name, SESSION_SLOT)
            tree = await worktrees.ensure(repo.repository, slot, about["repos"][name])
            found[name] = str(tree.path)
            failpoint("fork-worktree-made")
    return found


def session_worktrees(worktrees: WorktreeManager, workspace: Workspace) -> dict[str, str]:
    """Return the worktrees that hold what a session has brought together: repo → directory."""
    found = {}
    for name, repo in workspace.repos.items():
        if repo.repository.top is not None:
            tree = worktrees.find(repo.repository, SESSION_SLOT)
            if tree is not None:
                found[name] = str(tree.path)
    return found
