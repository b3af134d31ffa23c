"""What the list of batches consists of, and how one that an earlier version made gets what it lacks."""

from __future__ import annotations

import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches(
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL,
    model TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, labels TEXT NOT NULL, top_k INTEGER,
    source TEXT NOT NULL, key TEXT UNIQUE, fingerprint TEXT NOT NULL, per_chunk INTEGER NOT NULL,
    total INTEGER, done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0, written INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL, finished REAL, error TEXT, threshold REAL, coverage TEXT);
CREATE TABLE IF NOT EXISTS chunks(
    batch INTEGER NOT NULL, chunk INTEGER NOT NULL, owner TEXT NOT NULL, lease REAL NOT NULL,
    rows BLOB, failed INTEGER, PRIMARY KEY (batch, chunk));
CREATE INDEX IF NOT EXISTS finished ON batches(finished, number, bytes) WHERE finished IS NOT NULL;
CREATE INDEX IF NOT EXISTS unfinished ON batches(number) WHERE status IN ('queued', 'running');
"""
ADDED = {"threshold": "REAL", "coverage": "TEXT"}  # columns of batches that lists made by earlier versions lack


def complete(connection: sqlite3.Connection) -> None:
    """Make what is missing, by a connection whose rows are dictionaries; what is listed stays."""
    connection.executescript(SCHEMA)
    if not _missing(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for name in _missing(connection):  # another process may have been quicker
            connection.execute(f"ALTER TABLE batches ADD COLUMN {name} {ADDED[name]}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _missing(connection: sqlite3.Connection) -> list[str]:
    there = {row["name"] for row in connection.execute("PRAGMA table_info(batches)")}
    return [name for name in ADDED if name not in there]
