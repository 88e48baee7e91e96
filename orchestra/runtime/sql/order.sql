-- In which order things came into the database, so that a fork can have all that was there at a checkpoint (DESIGN §5.10).
-- Noted by triggers: in the same transaction, whoever writes.
CREATE TABLE IF NOT EXISTS checkpoint_order (
    seq           INTEGER PRIMARY KEY,  -- the session's own count of checkpoints
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    last_event    INTEGER NOT NULL      -- the newest event that was written before it
);
CREATE TABLE IF NOT EXISTS write_order (
    checkpoint_ns TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    task_id       TEXT NOT NULL,
    idx           INTEGER NOT NULL,
    after         INTEGER NOT NULL,     -- the newest checkpoint that was there before it
    PRIMARY KEY (checkpoint_ns, checkpoint_id, task_id, idx)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS order_of_checkpoints AFTER INSERT ON checkpoints BEGIN
    INSERT OR IGNORE INTO checkpoint_order (seq, checkpoint_ns, checkpoint_id, last_event)
    SELECT
        CAST(CAST(NEW.metadata AS TEXT) ->> '$.orchestra.seq' AS INTEGER),
        NEW.checkpoint_ns,
        NEW.checkpoint_id,
        (SELECT COALESCE(MAX(seq), 0) FROM events)
    WHERE CAST(NEW.metadata AS TEXT) ->> '$.orchestra.seq' IS NOT NULL;
END;
CREATE TRIGGER IF NOT EXISTS order_of_writes AFTER INSERT ON writes BEGIN
    INSERT OR REPLACE INTO write_order (checkpoint_ns, checkpoint_id, task_id, idx, after)
    SELECT
        NEW.checkpoint_ns,
        NEW.checkpoint_id,
        NEW.task_id,
        NEW.idx,
        (SELECT COALESCE(MAX(seq), 0) FROM checkpoint_order);
END;
