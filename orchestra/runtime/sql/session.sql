-- One session: one row. The driver writes it, everybody reads it.
CREATE TABLE IF NOT EXISTS sessions (
    session_id  TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,   -- of this schema
    pipeline    TEXT NOT NULL,      -- its name
    status      TEXT NOT NULL,      -- created, running, paused, completed, failed, cancelled
    created_at  TEXT NOT NULL,      -- ISO 8601, UTC
    updated_at  TEXT NOT NULL,
    inputs      TEXT NOT NULL,      -- JSON
    workspace   TEXT NOT NULL,      -- JSON: {repo: {path, base, branch, ...}}
    settings    TEXT NOT NULL,      -- JSON: what the command line set (provider, ...)
    usage       TEXT NOT NULL,      -- JSON: {input_tokens, output_tokens, model_calls, cost_usd}
    waiting_for TEXT,               -- JSON: {agent, text}
    error       TEXT                -- JSON: {code, message, agent, hint}
);
