-- What several agents count in. Nobody but the owner of the schema reads or writes a table: agents have EXECUTE on
-- functions, and each function begins with the row of the agent that calls.
--
-- Locks are taken in one order everywhere: the caller's row of agent; rows of session by id; rows of tally by key;
-- leader; store. Isolation is READ COMMITTED, and what is decided by is read after the locks, in later statements:
-- those see what the last holder has committed.
--
-- Numbers of the chain have 256 bits, nonces 64: numeric. A tracker is the hex of its encoding: 29 bytes that name the
-- limit and 8 of the period.

CREATE TABLE store (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	timeline text NOT NULL,           -- on which every agent that is not fenced has found its head
	frozen text,                      -- why nothing is charged; NULL: it is
	version bigint NOT NULL DEFAULT 0, -- of the last change that agents acknowledge; raised with the row locked, so in the order of commits
	locked boolean NOT NULL DEFAULT false
);

CREATE TABLE agent (
	id text PRIMARY KEY,
	db_role name NOT NULL UNIQUE,
	epoch bigint NOT NULL DEFAULT 0,  -- raised by each start and by a fence; a call with an older one is refused
	fenced boolean NOT NULL DEFAULT false,
	fresh boolean NOT NULL DEFAULT true, -- it may start without a guard file
	found_on text NOT NULL DEFAULT '',   -- the timeline on which it last found its head
	lost boolean NOT NULL DEFAULT false, -- it did not find its head
	batch bigint NOT NULL DEFAULT 0,  -- the last, with the hash of its requests and its answer
	asked bytea NOT NULL DEFAULT '',
	answer text NOT NULL DEFAULT '',
	tries bigint NOT NULL DEFAULT 0,
	seq bigint NOT NULL DEFAULT 0,    -- the last record of its trail and its SHA-256
	head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
	done bigint NOT NULL DEFAULT 0,   -- what was charged up to this record has left the agent, or never will
	ack bigint NOT NULL DEFAULT 0     -- the last store.version that it obeys
);

CREATE TABLE session (
	id text PRIMARY KEY,
	status text NOT NULL,
	version bigint NOT NULL,          -- each change raises it by 1; in the MAC
	change bigint NOT NULL,           -- store.version of the last change
	hold boolean NOT NULL DEFAULT false, -- after a reconcile that could not account for all charges
	chain_id numeric(20) NOT NULL,
	account text NOT NULL,
	content text NOT NULL,
	mac bytea NOT NULL,
	chain_block numeric(20),          -- of the last settlement; NULL: never settled
	chain_nonce numeric(20),          -- the account's, there
	forgotten numeric(20) NOT NULL DEFAULT 0
);
CREATE INDEX session_change ON session (change);
CREATE INDEX session_account ON session (chain_id, account);

CREATE TABLE usage (
	session text REFERENCES session,
	tracker text,
	used numeric(78) NOT NULL CHECK (used >= 0),
	PRIMARY KEY (session, tracker)
);

CREATE TABLE liability (              -- what the signatures for a nonce cost: of all of them one can land
	session text REFERENCES session,
	nonce numeric(20),
	costs jsonb NOT NULL,             -- amount by tracker
	PRIMARY KEY (session, nonce)
);

CREATE TABLE signed (                 -- each digest is charged once
	session text REFERENCES session,
	nonce numeric(20),
	digest text,
	costs jsonb NOT NULL,             -- of this digest alone
	agent text NOT NULL,              -- that charged it, with the number of its record
	seq bigint NOT NULL,
	calls bigint NOT NULL DEFAULT 1,  -- by any agent
	PRIMARY KEY (session, nonce, digest)
);
CREATE INDEX signed_agent ON signed (agent, seq);

CREATE TABLE tally (                  -- counters of guard rules: [from, until, amount] in each part of the window
	key text PRIMARY KEY,
	parts jsonb NOT NULL DEFAULT '[]'
);

CREATE TABLE journal (                -- records that may not be in their agent's file yet
	agent text REFERENCES agent,
	seq bigint,
	line text NOT NULL,
	PRIMARY KEY (agent, seq)
);

CREATE TABLE leader (                 -- the agent that settles
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	agent text,
	term bigint NOT NULL DEFAULT 0,
	beat bigint NOT NULL DEFAULT 0
);

CREATE TABLE nonce_lease (
	chain_id numeric(20),
	account text,
	nonce numeric(20),
	agent text NOT NULL,
	until timestamptz NOT NULL,
	PRIMARY KEY (chain_id, account, nonce)
);

-- timeline is right straight after pg_promote; pg_control_checkpoint() is not. It fails on a standby.
CREATE FUNCTION timeline() RETURNS text LANGUAGE sql AS $$ SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) $$;

-- max256 is the largest total: more than fits is counted as that. Too much is the safe side.
CREATE FUNCTION max256() RETURNS numeric IMMUTABLE LANGUAGE sql AS $$
	SELECT 115792089237316195423570985008687907853269984665640564039457584007913129639935::numeric $$;

INSERT INTO store (timeline) VALUES (timeline());
INSERT INTO leader DEFAULT VALUES;

-- own locks the row of the agent that calls and returns it. With it a commit is on disk, and on the synchronous standby
-- if there is one, whatever the role's settings say. (A SET at the function would end with it, before the commit.)
CREATE FUNCTION own(p_agent text, p_epoch bigint) RETURNS agent LANGUAGE plpgsql AS $$
DECLARE
	a agent;
BEGIN
	IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
		PERFORM set_config('synchronous_commit', 'on', true);
	END IF;
	SELECT * INTO a FROM agent WHERE id = p_agent FOR NO KEY UPDATE;
	IF NOT FOUND OR a.db_role <> session_user THEN
		RAISE EXCEPTION 'there is no agent % with the role %', p_agent, session_user USING ERRCODE = 'KW006';
	END IF;
	IF a.fenced THEN
		RAISE EXCEPTION 'agent % is fenced', p_agent USING ERRCODE = 'KW001';
	END IF;
	IF p_epoch IS NOT NULL AND a.epoch <> p_epoch THEN
		RAISE EXCEPTION 'agent % was started again or fenced: its epoch is %, this process has %', p_agent, a.epoch, p_epoch USING ERRCODE = 'KW001';
	END IF;
	RETURN a;
END $$;

-- changed numbers a change that agents acknowledge, and wakes them.
CREATE FUNCTION changed() RETURNS bigint LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	v bigint;
BEGIN
	UPDATE store SET version = version + 1 RETURNING version INTO v;
	PERFORM pg_notify('keyward', '');
	RETURN v;
END $$;
