-- What nodes keep in PostgreSQL. Run it once, as the user that the URL of control/shadow names:
--     psql -v ON_ERROR_STOP=1 -f schema.sql postgresql://pyqmail@db.example/pyqmail

-- qmail-shadowd: a second copy of each message that a node has accepted and not yet delivered (control/shadow).
-- Rows of shadow_message come and go with each message: let autovacuum look often.

CREATE TABLE shadow_node (
    queue uuid PRIMARY KEY,                         -- queue/pyqmail/id of the node
    name text NOT NULL UNIQUE,                      -- its control/me
    machine text NOT NULL,                          -- the boot of the machine that it runs on
    epoch bigint NOT NULL DEFAULT 1,                -- one more each time that its messages are adopted
    until timestamptz NOT NULL                      -- from then on others may adopt its messages
);

CREATE TABLE shadow_message (
    id uuid PRIMARY KEY,                            -- todo/N and info/N have it too
    owner uuid NOT NULL,                            -- the queue that delivers it
    born timestamptz NOT NULL DEFAULT now(),
    taking boolean NOT NULL DEFAULT false,          -- adopted, and not known to be in the queue of its owner
    size bigint NOT NULL,
    facts bytea NOT NULL,
    envelope bytea NOT NULL,                        -- as in todo/N
    message bytea NOT NULL                          -- its first 256 KiB; the rest is in shadow_part
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE shadow_message ALTER COLUMN message SET STORAGE EXTERNAL; -- compressing it costs more than it saves
CREATE INDEX shadow_message_owner ON shadow_message (owner);

CREATE TABLE shadow_part (
    id uuid NOT NULL REFERENCES shadow_message ON DELETE CASCADE,
    number integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (id, number)
);

CREATE TABLE shadow_done (                          -- recipients that need no other delivery
    id uuid NOT NULL REFERENCES shadow_message ON DELETE CASCADE,
    place text NOT NULL,                            -- where the mark is in the queue of its owner
    recipient bytea NOT NULL,
    PRIMARY KEY (id, place)
);

CREATE TABLE shadow_taken (                         -- what a node must not deliver when it comes back
    queue uuid NOT NULL,
    id uuid NOT NULL,
    adopted timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, id)
);
