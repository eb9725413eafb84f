-- Agents come and go; what they must obey; what became of their records after the database has failed over.

-- confirm lets agents sign on this timeline once every agent that is not fenced has found its head there. The caller
-- holds no lock that comes after store's. It returns the agents that are missing.
CREATE FUNCTION confirm() RETURNS text[] LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	missing text[];
	broken text[];
BEGIN
	PERFORM FROM store FOR NO KEY UPDATE; -- of two agents that confirm, the second sees the first
	SELECT array_agg(id ORDER BY id) FILTER (WHERE found_on <> timeline()), array_agg(id ORDER BY id) FILTER (WHERE lost) INTO missing, broken
		FROM agent WHERE NOT fenced AND NOT (fresh AND seq = 0);
	IF broken IS NOT NULL THEN
		UPDATE store SET frozen = format('the database has lost records that agent %s had acknowledged: the operator has to reconcile', array_to_string(broken, ', '));
	ELSE
		UPDATE store SET frozen = NULL;
		IF missing IS NULL THEN
			UPDATE store SET timeline = timeline() WHERE timeline <> timeline();
		END IF;
	END IF;
	RETURN missing;
END $$;

-- join_store begins a connection. A process that starts has no epoch yet, and gets one: an older process of the agent
-- can't charge any more. p_seq and p_head are the last record that the agent has acknowledged and p_version the last
-- change that it obeys, by its guard file; NULL without one. The database must contain them.
CREATE FUNCTION join_store(p_agent text, p_epoch bigint, p_seq bigint, p_head bytea, p_version bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
	has boolean;
	missing text[];
	st store;
BEGIN
	IF p_seq IS NULL AND NOT a.fresh THEN
		RAISE EXCEPTION 'agent % has % records in the database and no guard file: put the file back, or fence the agent and enroll it under another name', p_agent, a.seq
			USING ERRCODE = 'KW004';
	END IF;
	SELECT * INTO st FROM store;
	has := CASE
		WHEN p_seq IS NULL OR p_seq = 0 THEN true
		WHEN p_seq = a.seq THEN p_head = a.head
		ELSE EXISTS (SELECT FROM journal WHERE agent = p_agent AND seq = p_seq AND sha256(convert_to(line, 'UTF8')) = p_head)
		END AND coalesce(p_version, 0) <= st.version;
	IF p_epoch IS NULL THEN
		a.epoch := a.epoch + 1;
		a.ack := 0; -- it was higher than any version if the agent had left
		a.done := a.seq; -- the older process is gone, or can't charge any more
	END IF;
	UPDATE agent SET epoch = a.epoch, ack = a.ack, done = a.done, fresh = false, lost = NOT has, found_on = CASE WHEN has THEN timeline() ELSE '' END
		WHERE id = p_agent;
	missing := confirm();
	SELECT * INTO st FROM store;
	RETURN jsonb_build_object('epoch', a.epoch, 'batch', a.batch, 'seq', a.seq, 'head', encode(a.head, 'hex'), 'has', has,
		'timeline', timeline(), 'confirmed', st.timeline = timeline() AND st.frozen IS NULL,
		'missing', to_jsonb(coalesce(missing, '{}')), 'frozen', coalesce(st.frozen, ''));
END $$;

-- leave says that the agent stops and releases nothing any more: nothing waits for it until it joins again.
CREATE FUNCTION leave(p_agent text, p_epoch bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
BEGIN
	UPDATE agent SET ack = 9223372036854775807, done = seq WHERE id = a.id;
END $$;

-- journal_of returns the agent's records after p_after, one a row.
CREATE FUNCTION journal_of(p_agent text, p_epoch bigint, p_after bigint) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
BEGIN
	RETURN QUERY SELECT line FROM journal WHERE agent = a.id AND seq > p_after ORDER BY seq;
END $$;

-- changes returns what has changed after version p_since, in one snapshot, and fails once the agent is fenced.
CREATE FUNCTION changes(p_agent text, p_epoch bigint, p_since bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent;
	result jsonb;
BEGIN
	SELECT jsonb_build_object('version', st.version, 'locked', st.locked, 'confirmed', st.timeline = timeline() AND st.frozen IS NULL,
			'epoch', ag.epoch, 'fenced', ag.fenced,
			'sessions', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'status', status, 'version', version, 'hold', hold,
				'chain', chain_id::text, 'account', account, 'content', content, 'mac', encode(mac, 'hex')) ORDER BY change), '[]')
				FROM session WHERE change > p_since))
		INTO result FROM store st, agent ag WHERE ag.id = p_agent AND ag.db_role = session_user;
	IF result IS NULL THEN
		RAISE EXCEPTION 'there is no agent % with the role %', p_agent, session_user USING ERRCODE = 'KW006';
	ELSIF (result ->> 'fenced')::boolean OR (result ->> 'epoch')::bigint <> p_epoch THEN
		RAISE EXCEPTION 'agent % is fenced, or was started again', p_agent USING ERRCODE = 'KW001';
	END IF;
	RETURN result;
END $$;

-- ack says that the agent obeys all changes up to p_version: no signature that one of them forbids leaves it any more.
-- p_done as in charge.
CREATE FUNCTION ack(p_agent text, p_epoch bigint, p_version bigint, p_done bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
BEGIN
	UPDATE agent SET ack = greatest(ack, p_version), done = greatest(done, p_done) WHERE id = a.id;
END $$;

-- silent returns the agents that have not acknowledged p_version and the digests that may still leave each: of
-- p_session, or of all for NULL.
CREATE FUNCTION silent(p_version bigint, p_session text) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_agg(jsonb_build_object('agent', a.id, 'digests', (SELECT coalesce(jsonb_agg(digest ORDER BY s.seq), '[]') FROM signed s
		WHERE s.agent = a.id AND s.seq > a.done AND (p_session IS NULL OR s.session = p_session))) ORDER BY a.id), '[]')
	FROM agent a WHERE NOT a.fenced AND NOT (a.fresh AND a.seq = 0) AND a.ack < p_version
$$;

-- set_lock locks all agents, or unlocks them, and returns the version to wait for.
CREATE FUNCTION set_lock(p_agent text, p_epoch bigint, p_locked boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
	v bigint := changed();
BEGIN
	UPDATE store SET locked = p_locked;
	RETURN v;
END $$;

-- The rest is the operator's: no agent may call it.

-- enroll makes an agent, and gives its role the functions and nothing else.
CREATE FUNCTION enroll(p_agent text, p_role name) RETURNS void LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	f text;
BEGIN
	IF p_agent !~ '^[a-z0-9][a-z0-9-]{0,62}$' THEN
		RAISE EXCEPTION 'agent %: a name has small letters, digits and hyphens', p_agent;
	END IF;
	INSERT INTO agent (id, db_role) VALUES (p_agent, p_role);
	EXECUTE format('GRANT USAGE ON SCHEMA keyward TO %I', p_role);
	FOR f IN SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'keyward'::regnamespace AND prosecdef LOOP
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f, p_role);
	END LOOP;
END $$;

-- fence stops an agent for good: nothing is charged for it any more. It returns the digests that may still leave it.
-- One that has not found its records after a failover is reconciled: what it has signed may be missing, and digests
-- that the database has lost can't be named (whole is false).
CREATE FUNCTION fence(p_agent text) RETURNS jsonb LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	whole boolean;
BEGIN
	SELECT NOT lost AND (found_on = timeline() OR fresh AND seq = 0) INTO whole FROM agent WHERE id = p_agent FOR NO KEY UPDATE;
	PERFORM reconcile(ARRAY[p_agent], false);
	RETURN (SELECT jsonb_build_object('whole', whole, 'digests', coalesce(jsonb_agg(s.digest ORDER BY s.seq) FILTER (WHERE s.digest IS NOT NULL), '[]'))
		FROM agent a LEFT JOIN signed s ON a.id = s.agent AND s.seq > a.done WHERE a.id = p_agent);
END $$;

-- lift lets a fenced agent start again with its guard file. Without it, or if the database has lost its records, it gets another name.
CREATE FUNCTION lift(p_agent text) RETURNS void LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
BEGIN
	UPDATE agent SET fenced = false, ack = 9223372036854775807 WHERE id = p_agent; -- it does not run
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no agent %', p_agent USING ERRCODE = 'KW006';
	END IF;
	PERFORM changed();
END $$;

-- reconcile names agents that are stopped, and will not release anything any more: they are fenced. What an agent that
-- has not found its head has signed may be missing in the database, so each session that could sign is on hold, unless
-- p_keep. It returns the agents that are still missing.
CREATE FUNCTION reconcile(p_stopped text[], p_keep boolean) RETURNS text[] LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	unaccounted boolean;
	v bigint;
	missing text[];
BEGIN
	PERFORM FROM agent WHERE id = ANY (p_stopped) ORDER BY id FOR NO KEY UPDATE;
	SELECT bool_or(lost OR found_on <> timeline()) INTO unaccounted FROM agent WHERE id = ANY (p_stopped) AND seq + batch > 0;
	IF (SELECT count(*) FROM agent WHERE id = ANY (p_stopped)) <> cardinality(p_stopped) THEN
		RAISE EXCEPTION 'there is no such agent among %', p_stopped USING ERRCODE = 'KW006';
	END IF;
	PERFORM FROM session ORDER BY id FOR NO KEY UPDATE;
	UPDATE agent SET fenced = true, epoch = epoch + 1, lost = false WHERE id = ANY (p_stopped);
	v := changed();
	IF unaccounted AND NOT p_keep THEN
		UPDATE session SET hold = true, change = v WHERE status IN ('pending', 'active');
	END IF;
	missing := confirm();
	RETURN coalesce(missing, '{}');
END $$;

-- release ends the hold of a session of which the operator has accounted for all charges.
CREATE FUNCTION release(p_session text) RETURNS void LANGUAGE plpgsql
	SET search_path = keyward, pg_catalog, pg_temp AS $$
BEGIN
	PERFORM FROM session WHERE id = p_session FOR NO KEY UPDATE;
	UPDATE session SET hold = false, change = changed() WHERE id = p_session AND hold;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'session % is not on hold', p_session USING ERRCODE = 'KW006';
	END IF;
END $$;
