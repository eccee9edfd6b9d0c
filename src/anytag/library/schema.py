"""The database schema of a library: one migration script per version.

Paths are stored as bytes (file names need not be UTF-8), and as NFC text for display and search. Tags of the
model and decisions of the user are stored separately: a photo's tags are those in `tags` that `decisions`
does not reject, and those that it accepts or adds.
"""

from __future__ import annotations

APPLICATION = 0x616E7974
"""`PRAGMA application_id` of a library: "anyt"."""

_FIRST = """
CREATE TABLE meta (           -- what is true of the whole library
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE roots (          -- folders that the user named
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,      -- absolute, os.fsencode
    shown TEXT NOT NULL,            -- the same in NFC
    device INTEGER                  -- st_dev when it was last walked
);

CREATE TABLE models (         -- what tagged photos; vectors of two `weights` are never compared
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    weights TEXT NOT NULL,          -- hash of what sees photos
    vocabulary TEXT NOT NULL,       -- hash of the tags that were asked
    UNIQUE (name, weights, vocabulary)
);

CREATE TABLE photos (         -- a row for each name in the folders
    id INTEGER PRIMARY KEY,
    root INTEGER NOT NULL REFERENCES roots (id) ON DELETE CASCADE,
    path BLOB NOT NULL,             -- absolute, os.fsencode; once among those that are not gone
    name TEXT NOT NULL,             -- the path below the root, NFC, with /
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    picture BLOB,                   -- 16 bytes, hash of the picture data without metadata; NULL until read
    pair INTEGER REFERENCES photos (id) ON DELETE SET NULL,  -- the row that stands for this one, too
    state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed', 'gone')),
    width INTEGER NOT NULL DEFAULT 0,
    height INTEGER NOT NULL DEFAULT 0,
    taken TEXT,                     -- EXIF DateTimeOriginal as ISO 8601, local time without a zone
    error_type TEXT,                -- of a failed photo
    error_message TEXT,
    model INTEGER REFERENCES models (id),  -- that gave its tags and its vector
    caption TEXT,
    slot INTEGER                    -- its record in the vector file of the model's weights
);
CREATE UNIQUE INDEX photos_path ON photos (path) WHERE state != 'gone';
CREATE INDEX photos_place ON photos (path);
CREATE INDEX photos_picture ON photos (picture);
CREATE INDEX photos_pair ON photos (pair) WHERE pair IS NOT NULL;
CREATE INDEX photos_root ON photos (root);
CREATE INDEX photos_inode ON photos (inode);
CREATE INDEX photos_left ON photos (path) WHERE state IN ('waiting', 'failed');

CREATE TABLE tags (           -- what the model says
    photo INTEGER NOT NULL REFERENCES photos (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,              -- the tag's id in the vocabulary
    name TEXT NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (photo, tag)
) WITHOUT ROWID;
CREATE INDEX tags_tag ON tags (tag, photo, score);

CREATE TABLE decisions (      -- what the user says; it outlives every model
    photo INTEGER NOT NULL REFERENCES photos (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,              -- the tag's id, or the user's word in NFC where no tag has that name
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('accepted', 'rejected', 'added')),
    time TEXT NOT NULL,             -- ISO 8601, UTC
    PRIMARY KEY (photo, tag)
) WITHOUT ROWID;

CREATE TABLE changes (        -- each decision as it came, for undo
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    photo INTEGER NOT NULL REFERENCES photos (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    name TEXT NOT NULL,
    before TEXT,                    -- kind of decision, NULL for none
    after TEXT
);

CREATE TABLE keywords (       -- the user's own words in photos and sidecars
    photo INTEGER NOT NULL REFERENCES photos (id) ON DELETE CASCADE,
    path TEXT NOT NULL,             -- 'animal|dog': what is broader first
    source TEXT NOT NULL,           -- the field or file that it stands in
    PRIMARY KEY (photo, path, source)
) WITHOUT ROWID;

CREATE TABLE written (        -- exactly what anytag wrote into photos and sidecars, so that it can be undone
    photo INTEGER NOT NULL REFERENCES photos (id) ON DELETE CASCADE,
    file BLOB NOT NULL,             -- absolute path of the photo or sidecar, os.fsencode
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (photo, file, field, value)
) WITHOUT ROWID;

CREATE VIRTUAL TABLE words USING fts5 (  -- rowid: the photo; kept in step by `words.rewrite`
    name, tags, keywords, caption,
    tokenize = 'unicode61 remove_diacritics 2'
);
"""

_SECOND = """
ALTER TABLE photos ADD COLUMN hash BLOB;  -- 32 bytes, difference hash of the picture; NULL until it is seen

DROP TABLE written;           -- it was never filled: files hold their own record of what anytag wrote there
"""

_THIRD = """
ALTER TABLE photos ADD COLUMN orientation INTEGER;  -- EXIF's of the tagged picture; NULL if not known
CREATE INDEX changes_photo ON changes (photo);
"""

SCRIPTS = (_FIRST, _SECOND, _THIRD)
"""Migrations: script n, from 0, leads to version n + 1 (`PRAGMA user_version`)."""

VERSION = len(SCRIPTS)
