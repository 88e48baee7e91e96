-- name: schema
CREATE TABLE IF NOT EXISTS workspace_snapshots (
    id            INTEGER PRIMARY KEY,
    checkpoint_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    session       TEXT NOT NULL,
    created_at    TEXT NOT NULL,
    UNIQUE (checkpoint_id, checkpoint_ns)
);
CREATE TABLE IF NOT EXISTS repo_states (
    checkpoint_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL,
    repo          TEXT NOT NULL,
    commit_sha    TEXT NOT NULL,
    branch        TEXT,
    worktree_path TEXT,
    agent         TEXT,
    PRIMARY KEY (checkpoint_id, checkpoint_ns, repo),
    FOREIGN KEY (checkpoint_id, checkpoint_ns) REFERENCES workspace_snapshots (checkpoint_id, checkpoint_ns)
);
CREATE INDEX IF NOT EXISTS repo_states_by_commit ON repo_states (commit_sha);
CREATE INDEX IF NOT EXISTS workspace_snapshots_by_session ON workspace_snapshots (session, checkpoint_id);

-- name: last_commit
SELECT state.commit_sha
FROM repo_states AS state
JOIN workspace_snapshots AS snapshot USING (checkpoint_id, checkpoint_ns)
WHERE snapshot.session = :session AND state.repo = :repo AND state.worktree_path IS :worktree_path
ORDER BY snapshot.id DESC
LIMIT 1;

-- name: insert_snapshot
INSERT INTO workspace_snapshots (checkpoint_id, checkpoint_ns, session, created_at)
VALUES (:checkpoint_id, :checkpoint_ns, :session, :created_at)
ON CONFLICT DO NOTHING;

-- name: insert_state
INSERT INTO repo_states (checkpoint_id, checkpoint_ns, repo, commit_sha, branch, worktree_path, agent)
VALUES (:checkpoint_id, :checkpoint_ns, :repo, :commit_sha, :branch, :worktree_path, :agent)
ON CONFLICT DO NOTHING;

-- name: states_at
SELECT repo, commit_sha, branch, worktree_path, agent
FROM repo_states
WHERE (checkpoint_id, checkpoint_ns) = (
    SELECT checkpoint_id, checkpoint_ns
    FROM workspace_snapshots
    WHERE session = :session AND checkpoint_id <= :checkpoint_id
    ORDER BY (checkpoint_ns = :checkpoint_ns AND checkpoint_id = :checkpoint_id) DESC,
        (checkpoint_ns = :checkpoint_ns) DESC, checkpoint_id DESC, id DESC
    LIMIT 1
)
ORDER BY repo;

-- name: checkpoints_of
SELECT checkpoint_id, checkpoint_ns
FROM repo_states
WHERE commit_sha = :commit_sha
ORDER BY checkpoint_id, checkpoint_ns;
