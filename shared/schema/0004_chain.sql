-- One agent at a time settles. The lease is a row and not an advisory lock, which a stopped process keeps for ever.
-- Followers watch the beat by their own clocks.

-- lead keeps the lease of the agent that has it with p_term; or takes it over from one whose term and beat have been
-- p_term and p_beat for too long. It returns the lease as it is now.
CREATE FUNCTION lead(p_agent text, p_epoch bigint, p_term bigint, p_beat bigint, p_take boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
	l leader;
BEGIN
	SELECT * INTO l FROM leader FOR NO KEY UPDATE;
	IF l.agent = p_agent AND l.term = p_term THEN
		UPDATE leader SET beat = beat + 1 RETURNING * INTO l;
	ELSIF p_take AND l.term = p_term AND l.beat = p_beat OR l.agent IS NULL THEN
		UPDATE leader SET agent = p_agent, term = term + 1, beat = 0 RETURNING * INTO l;
	END IF;
	RETURN jsonb_build_object('agent', l.agent, 'term', l.term, 'beat', l.beat);
END $$;

-- settle brings totals in line with a block, as session/settle.go says. p_used is what the chain has counted, by
-- tracker; p_trackers are all whose totals it can change. It returns the totals before and after.
CREATE FUNCTION settle(p_agent text, p_epoch bigint, p_term bigint, p_session text, p_block numeric, p_nonce numeric, p_used jsonb, p_trackers text[])
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
	s session;
	l leader;
	t text;
	raise_only boolean;
	before_ numeric;
	after_ numeric;
	befores jsonb := '{}';
	afters jsonb := '{}';
BEGIN
	SELECT * INTO s FROM session WHERE id = p_session FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no session %', p_session USING ERRCODE = 'KW006';
	END IF;
	SELECT * INTO l FROM leader FOR SHARE;
	IF l.agent IS DISTINCT FROM p_agent OR l.term <> p_term THEN
		RAISE EXCEPTION 'agent % does not lead in term %', p_agent, p_term USING ERRCODE = 'KW005';
	END IF;
	SELECT * INTO s FROM session WHERE id = p_session;
	raise_only := coalesce(p_block < s.chain_block, false) OR p_nonce < s.forgotten;
	FOREACH t IN ARRAY p_trackers LOOP
		SELECT used INTO before_ FROM usage WHERE session = p_session AND tracker = t;
		IF is_allowance(t) THEN
			PERFORM carry(p_session, t, p_nonce);
		END IF;
		SELECT coalesce(sum((costs ->> t)::numeric), 0) INTO after_ FROM liability WHERE session = p_session AND nonce >= p_nonce;
		IF before_ IS NULL THEN
			before_ := CASE WHEN is_allowance(t) AND s.chain_nonce IS NOT NULL THEN after_ ELSE 0 END;
		END IF;
		after_ := least(after_ + coalesce((p_used ->> t)::numeric, 0), max256());
		IF (NOT p_used ? t OR raise_only) AND after_ < before_ THEN
			after_ := before_;
		END IF;
		INSERT INTO usage VALUES (p_session, t, after_) ON CONFLICT (session, tracker) DO UPDATE SET used = excluded.used;
		IF after_ <> before_ THEN
			befores := befores || jsonb_build_object(t, before_::text);
			afters := afters || jsonb_build_object(t, after_::text);
		END IF;
	END LOOP;
	UPDATE session SET chain_block = p_block, chain_nonce = p_nonce WHERE id = p_session;
	RETURN jsonb_build_object('before', befores, 'after', afters);
END $$;

-- look returns what a charge would be decided by: see grant_one. Nothing is locked or changed.
CREATE FUNCTION look(p_agent text, p_session text, p_nonce numeric) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('block', s.chain_block::text, 'nonce', s.chain_nonce::text,
		'used', (SELECT coalesce(jsonb_object_agg(tracker, used::text), '{}') FROM usage WHERE session = s.id),
		'costs', (SELECT costs FROM liability WHERE session = s.id AND nonce = p_nonce),
		'digests', (SELECT coalesce(jsonb_agg(digest), '[]') FROM signed WHERE session = s.id AND nonce = p_nonce),
		'liabilities', (SELECT count(*) FROM liability WHERE session = s.id AND (s.chain_nonce IS NULL OR nonce >= s.chain_nonce)))
	FROM session s WHERE s.id = p_session AND EXISTS (SELECT FROM agent WHERE id = p_agent AND db_role = session_user)
$$;

-- lease_nonce hands out the lowest nonce of an account from p_from on that no live lease has and for which nothing was
-- signed. p_from is the account's nonce on the chain; nonces below the last settlement's are never handed out. A lease
-- ends after p_seconds, or when something is signed for it.
CREATE FUNCTION lease_nonce(p_agent text, p_epoch bigint, p_chain numeric, p_account text, p_from numeric, p_seconds int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
	n numeric;
BEGIN
	PERFORM FROM session WHERE chain_id = p_chain AND account = p_account ORDER BY id FOR NO KEY UPDATE; -- also one lease at a time
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no session has account % on chain %', p_account, p_chain USING ERRCODE = 'KW006';
	END IF;
	SELECT greatest(p_from, max(chain_nonce)) INTO n FROM session WHERE chain_id = p_chain AND account = p_account;
	DELETE FROM nonce_lease WHERE chain_id = p_chain AND account = p_account AND (nonce < n OR until <= clock_timestamp());
	WHILE EXISTS (SELECT FROM nonce_lease l WHERE l.chain_id = p_chain AND l.account = p_account AND l.nonce = n)
		OR EXISTS (SELECT FROM liability l JOIN session s ON s.id = l.session WHERE s.chain_id = p_chain AND s.account = p_account AND l.nonce = n) LOOP
		n := n + 1;
	END LOOP;
	INSERT INTO nonce_lease VALUES (p_chain, p_account, n, p_agent, clock_timestamp() + make_interval(secs => p_seconds));
	RETURN n::text;
END $$;

-- steps are the migrations that were taken, for agents to compare with their own.
CREATE FUNCTION steps() RETURNS TABLE (number int, name text, hash text)
LANGUAGE sql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
	SELECT number, name, hash FROM keyward.migration ORDER BY number
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA keyward FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA keyward FROM PUBLIC;
REVOKE ALL ON SCHEMA keyward FROM PUBLIC;
