-- Schema of an agent's database, format 4. Checked by a test against what the migrations make.
--
-- Every `body` is sealed (XChaCha20-Poly1305 under the profile's key, bound to table and row).
-- What the file shows without the key: how many connections, requests and undelivered messages.

-- One row `check`: sealed known text, to tell a wrong key from damage.
CREATE TABLE profile (name TEXT NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- Contact addresses by tag.
CREATE TABLE address (tag BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- Requests that the application has neither accepted nor rejected.
CREATE TABLE request (id BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;

-- Keys, counters and queues of each connection.
CREATE TABLE connection (id BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;

-- Links of connections that we invited to.
CREATE TABLE invitation (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;

-- Keys of messages that were overtaken, by ratchet chain and number.
CREATE TABLE late_key (
    connection BLOB NOT NULL,
    chain INTEGER NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (connection, chain, number)
) STRICT, WITHOUT ROWID;

-- Encrypted messages that the relay has not accepted, by the sender's number.
CREATE TABLE outbox (
    connection BLOB NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (connection, number)
) STRICT;

-- Messages that overtook an earlier one and wait for it, by the sender's number.
CREATE TABLE early (
    connection BLOB NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (connection, number)
) STRICT;

-- Messages that the application has not acknowledged, by our count.
CREATE TABLE inbox (
    connection BLOB NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (connection, number)
) STRICT;

-- What a connection keeps about new keys and new queues.
CREATE TABLE renewal (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;

-- What a connection keeps about queues beside its first ones.
CREATE TABLE parallel (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;

-- When a connection sends, if not when there is something to say.
CREATE TABLE noise (connection BLOB NOT NULL PRIMARY KEY, body BLOB NOT NULL) STRICT;
