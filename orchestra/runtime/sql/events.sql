-- Everything that happens in a session, in one order (DESIGN §6).
CREATE TABLE IF NOT EXISTS events (
    seq     INTEGER PRIMARY KEY,
    time    TEXT NOT NULL,          -- ISO 8601, UTC
    node    TEXT,
    turn    INTEGER,
    attempt INTEGER,
    type    TEXT NOT NULL,
    payload TEXT NOT NULL           -- JSON
);
CREATE INDEX IF NOT EXISTS events_by_node ON events (node, turn);
CREATE INDEX IF NOT EXISTS events_by_type ON events (type);

-- Per turn: tokens, cost, tool calls, durations. Derived from the events, so that it can't disagree with them. Tokens
-- from the cache count as input, too; a cost is null where the price of a call is not known.
DROP VIEW IF EXISTS turns;
CREATE VIEW turns AS
SELECT
    node AS agent,
    turn,
    MIN(CASE WHEN type = 'turn_started' THEN time END) AS started_at,
    MAX(CASE WHEN type = 'turn_ended' THEN time END) AS ended_at,
    SUM(CASE WHEN type IN ('turn_ended', 'turn_failed') THEN payload ->> 'duration_s' ELSE 0 END) AS duration_s,
    MAX(attempt) AS attempts,
    COUNT(CASE WHEN type = 'model_ended' THEN 1 END) AS model_calls,
    SUM(CASE WHEN type = 'model_ended' THEN payload ->> 'input_tokens' ELSE 0 END) AS input_tokens,
    SUM(CASE WHEN type = 'model_ended' THEN payload ->> 'output_tokens' ELSE 0 END) AS output_tokens,
    SUM(CASE WHEN type = 'model_ended' THEN payload ->> 'cached_tokens' ELSE 0 END) AS cached_tokens,
    CASE COUNT(CASE WHEN type = 'model_ended' AND payload ->> 'cost_usd' IS NULL THEN 1 END)
        WHEN 0 THEN SUM(CASE WHEN type = 'model_ended' THEN payload ->> 'cost_usd' ELSE 0 END)
    END AS cost_usd,
    COUNT(CASE WHEN type = 'tool_ended' THEN 1 END) AS tool_calls,
    SUM(CASE WHEN type = 'tool_ended' THEN payload ->> 'duration_s' ELSE 0 END) AS tool_s
FROM events
WHERE node IS NOT NULL AND turn IS NOT NULL
GROUP BY node, turn
ORDER BY MIN(seq);
