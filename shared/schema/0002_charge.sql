-- One batch of an agent is one call of charge.

-- carry makes the first total of an allowance's period: the open liabilities may land in it, each with the most that it
-- costs in any period.
CREATE FUNCTION carry(p_session text, p_tracker text, p_from numeric) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	l record;
	most numeric;
	had numeric;
	total numeric := 0;
BEGIN
	FOR l IN SELECT nonce, costs FROM liability WHERE session = p_session AND nonce >= p_from LOOP
		SELECT max(value::numeric) INTO most FROM jsonb_each_text(l.costs) WHERE left(key, 58) = left(p_tracker, 58);
		had := coalesce((l.costs ->> p_tracker)::numeric, 0);
		IF most > had THEN
			UPDATE liability SET costs = costs || jsonb_build_object(p_tracker, most::text) WHERE session = p_session AND nonce = l.nonce;
			had := most;
		END IF;
		total := total + had;
	END LOOP;
	INSERT INTO usage VALUES (p_session, p_tracker, least(total, max256()))
		ON CONFLICT (session, tracker) DO UPDATE SET used = excluded.used;
END $$;

-- is_allowance reports whether a tracker counts by periods.
CREATE FUNCTION is_allowance(p_tracker text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT get_byte(decode(left(p_tracker, 2), 'hex'), 0) & 1 = 1 $$;

-- tally_all adds a grant's amounts to the counters of guard rules, all or none. Each is [key, begins, part, now,
-- amount, limit], see session/tally.go. It returns NULL, or the first that refuses: {"i": its index, "used": …}.
CREATE FUNCTION tally_all(p_counters jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	c jsonb;
	i int := 0;
	used numeric;
	have jsonb;
	next jsonb;
	changes jsonb := '{}';
BEGIN
	FOR c IN SELECT value FROM jsonb_array_elements(p_counters) LOOP
		SELECT parts INTO have FROM tally WHERE key = c ->> 0;
		SELECT least(coalesce(sum((e ->> 2)::numeric), 0), max256()) INTO used
			FROM jsonb_array_elements(have) e WHERE (e ->> 1)::bigint >= (c ->> 1)::bigint;
		IF used + (c ->> 4)::numeric > (c ->> 5)::numeric THEN
			RETURN jsonb_build_object('v', 'rule', 'i', i, 'used', used::text);
		END IF;
		i := i + 1;
		CONTINUE WHEN (c ->> 4)::numeric = 0;
		SELECT coalesce(jsonb_agg(CASE WHEN e ->> 0 = c ->> 2
				THEN jsonb_build_array(e -> 0, greatest((e ->> 1)::bigint, (c ->> 3)::bigint), least((e ->> 2)::numeric + (c ->> 4)::numeric, max256())::text)
				ELSE e END), '[]') INTO next
			FROM jsonb_array_elements(have) e WHERE (e ->> 1)::bigint >= (c ->> 1)::bigint - 60;
		IF NOT EXISTS (SELECT FROM jsonb_array_elements(next) e WHERE e ->> 0 = c ->> 2) THEN
			next := next || jsonb_build_array(jsonb_build_array(c -> 2, c -> 3, c -> 4));
		END IF;
		changes := changes || jsonb_build_object(c ->> 0, next);
	END LOOP;
	UPDATE tally t SET parts = n.value FROM jsonb_each(changes) n WHERE t.key = n.key;
	RETURN NULL;
END $$;

-- grant_one decides one charge, with the rows locked: all of its amounts or the first refusal. See session/decide.go,
-- which decides the same for one agent. p_seq is the number of its record. The answer's v is "ok", with what was
-- counted beyond what the nonce had cost (more); "state", "hold" or "locked"; "limit", with the index of the charge and
-- what others have used; "denied": the policy's own refusal comes; or "rule".
CREATE FUNCTION grant_one(p_agent text, p_seq bigint, r jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	s record;
	p_session text := r ->> 's';
	p_nonce numeric := (r ->> 'n')::numeric;
	known boolean;
	charges jsonb := r -> 'c';
	had jsonb;
	signed_before boolean;
	c jsonb;
	i int := 0;
	total numeric;
	old numeric;
	counted numeric;
	most numeric;
	own jsonb := '{}';
	totals jsonb := '{}';
	more jsonb := '[]';
	refused jsonb;
BEGIN
	SELECT status, hold, chain_nonce, (SELECT locked FROM store) AS locked INTO s FROM session WHERE id = p_session;
	IF s.locked THEN
		RETURN '{"v": "locked"}';
	ELSIF s.status IS DISTINCT FROM 'active' THEN
		RETURN jsonb_build_object('v', 'state', 'status', coalesce(s.status, ''));
	ELSIF s.hold THEN
		RETURN '{"v": "hold"}';
	END IF;
	IF s.chain_nonce IS NOT NULL THEN
		PERFORM carry(p_session, t, s.chain_nonce) FROM (SELECT value ->> 0 AS t FROM jsonb_array_elements(charges)) trackers
			WHERE is_allowance(t) AND NOT EXISTS (SELECT FROM usage WHERE session = p_session AND tracker = t);
	END IF;
	SELECT costs INTO had FROM liability WHERE session = p_session AND nonce = p_nonce;
	signed_before := FOUND;
	known := EXISTS (SELECT FROM signed WHERE session = p_session AND nonce = p_nonce AND digest = r ->> 'd');
	IF known THEN
		charges := '[]';
	END IF;
	FOR c IN SELECT value FROM jsonb_array_elements(charges) LOOP
		total := coalesce((SELECT used FROM usage WHERE session = p_session AND tracker = c ->> 0), 0);
		old := coalesce((had ->> (c ->> 0))::numeric, 0);
		counted := CASE WHEN p_nonce < s.chain_nonce THEN 0 ELSE old END;
		IF total - counted + (c ->> 1)::numeric > (c ->> 2)::numeric THEN
			RETURN jsonb_build_object('v', 'limit', 'i', i, 'used', (total - counted)::text);
		END IF;
		most := greatest(old, (c ->> 1)::numeric);
		own := own || jsonb_build_object(c ->> 0, c ->> 1);
		had := coalesce(had, '{}') || jsonb_build_object(c ->> 0, most::text);
		totals := totals || jsonb_build_object(c ->> 0, (total - counted + most)::text);
		more := more || to_jsonb((most - counted)::text);
		i := i + 1;
	END LOOP;
	IF r ? 'x' THEN
		RETURN '{"v": "denied"}';
	END IF;
	IF known THEN
		UPDATE signed SET calls = calls + 1 WHERE session = p_session AND nonce = p_nonce AND digest = r ->> 'd';
	ELSE
		IF r ? 'k' THEN
			refused := tally_all(r -> 'k');
			IF refused IS NOT NULL THEN
				RETURN refused;
			END IF;
		END IF;
		INSERT INTO usage SELECT p_session, key, value::numeric FROM jsonb_each_text(totals)
			ON CONFLICT (session, tracker) DO UPDATE SET used = excluded.used;
		INSERT INTO liability VALUES (p_session, p_nonce, coalesce(had, '{}'))
			ON CONFLICT (session, nonce) DO UPDATE SET costs = excluded.costs;
		INSERT INTO signed (session, nonce, digest, costs, agent, seq) VALUES (p_session, p_nonce, r ->> 'd', own, p_agent, p_seq);
	END IF;
	RETURN jsonb_build_object('v', 'ok', 'more', more, 'repeat', known, 'replaces', signed_before AND NOT known);
END $$;

-- verdict_of is the member of the record that says what was granted: as the agent would write it.
CREATE FUNCTION verdict_of(r jsonb, v jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT ',"verdict":{"allow":true,"charges":' ||
		coalesce('[' || string_agg((c.value ->> 3) || (m.value #>> '{}') || '"}', ',' ORDER BY c.ordinality) || ']', 'null') ||
		CASE WHEN (v ->> 'replaces')::boolean THEN ',"replaces":true' ELSE '' END ||
		CASE WHEN (v ->> 'repeat')::boolean THEN ',"repeat":true' ELSE '' END ||
		coalesce(',"rules":' || (r ->> 'u'), '') || '}'
	FROM jsonb_array_elements(v -> 'more') WITH ORDINALITY m
	JOIN jsonb_array_elements(r -> 'c') WITH ORDINALITY c USING (ordinality)
	WHERE m.value #>> '{}' <> '0'
$$;

-- put makes a session's new state durable. Its version must be the one after what is there: else another agent has
-- changed it.
CREATE FUNCTION put(w jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	v bigint := (w ->> 'version')::bigint;
BEGIN
	IF v = 1 THEN
		INSERT INTO session (id, status, version, change, chain_id, account, content, mac)
			VALUES (w ->> 'id', w ->> 'status', 1, 0, (w ->> 'chain')::numeric, w ->> 'account', w ->> 'content', decode(w ->> 'mac', 'hex'))
			ON CONFLICT DO NOTHING;
	ELSE
		UPDATE session SET status = w ->> 'status', version = v, content = w ->> 'content', mac = decode(w ->> 'mac', 'hex')
			WHERE id = w ->> 'id' AND version = v - 1;
	END IF;
	IF NOT FOUND THEN
		RETURN '{"v": "conflict"}';
	END IF;
	v := changed();
	UPDATE session SET change = v WHERE id = w ->> 'id';
	RETURN jsonb_build_object('v', 'ok', 'change', v);
END $$;

-- take_back undoes a charge if the caller's certain failures are all calls that there ever were for the digest. See
-- session/revert.go.
CREATE FUNCTION take_back(p_agent text, b jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	p_session text := b ->> 's';
	p_nonce numeric := (b ->> 'n')::numeric;
	passed numeric;
	h record;
	least_left numeric;
	kept boolean;
	remain jsonb := '{}';
	more bigint;
BEGIN
	DELETE FROM signed WHERE session = p_session AND nonce = p_nonce AND digest = b ->> 'd' AND agent = p_agent AND calls = (b ->> 'calls')::bigint;
	IF NOT FOUND THEN
		RETURN '{"v": "stays"}';
	END IF;
	SELECT chain_nonce INTO passed FROM session WHERE id = p_session;
	FOR h IN SELECT l.key, l.value::numeric AS amount FROM liability, jsonb_each_text(costs) l WHERE session = p_session AND nonce = p_nonce LOOP
		SELECT coalesce(max(e.value::numeric), 0), coalesce(bool_or(e.key = h.key), false) INTO least_left, kept
			FROM signed, jsonb_each_text(costs) e WHERE session = p_session AND nonce = p_nonce
			AND (e.key = h.key OR passed IS NOT NULL AND is_allowance(h.key) AND left(e.key, 58) = left(h.key, 58));
		least_left := least(least_left, h.amount);
		IF least_left > 0 OR kept THEN
			remain := remain || jsonb_build_object(h.key, least_left::text);
		END IF;
		IF passed IS NULL OR p_nonce >= passed THEN
			UPDATE usage SET used = used - (h.amount - least_left) WHERE session = p_session AND tracker = h.key;
		END IF;
	END LOOP;
	SELECT count(*) INTO more FROM signed WHERE session = p_session AND nonce = p_nonce;
	IF more = 0 THEN
		DELETE FROM liability WHERE session = p_session AND nonce = p_nonce;
	ELSE
		UPDATE liability SET costs = remain WHERE session = p_session AND nonce = p_nonce;
	END IF;
	UPDATE tally t SET parts = (SELECT coalesce(jsonb_agg(CASE WHEN e ->> 0 = k ->> 1
			THEN jsonb_build_array(e -> 0, e -> 1, greatest((e ->> 2)::numeric - (k ->> 2)::numeric, 0)::text) ELSE e END), '[]')
		FROM jsonb_array_elements(t.parts) e) FROM jsonb_array_elements(coalesce(b -> 'k', '[]')) k WHERE t.key = k ->> 0;
	RETURN '{"v": "ok"}';
END $$;

-- charge decides a batch: p_requests is a JSON list, in order, each seeing those before it. A request has one of s (a
-- charge), w (a session's new state), b (a charge to take back), or none (only a record); and the text of its record
-- before (a) and after (z) the verdict. What is refused has no record, but a charge that stays has f's.
--
-- The batch that is asked again, as its answer was lost, is answered again and does nothing. p_done see agent.done;
-- p_synced is the last record that is on disk in the agent's file. The answer is {"seq": …, "head": hex, "verdicts":
-- […]}.
CREATE FUNCTION charge(p_agent text, p_epoch bigint, p_batch bigint, p_done bigint, p_synced bigint, p_requests text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = keyward, pg_catalog, pg_temp AS $$
DECLARE
	a agent := own(p_agent, p_epoch);
	hash bytea := sha256(convert_to(p_requests, 'UTF8'));
	requests jsonb;
	st store;
	r jsonb;
	v jsonb;
	verdicts jsonb[] := '{}';
	line text;
	lines text[] := '{}';
	first bigint := a.seq;
BEGIN
	IF p_batch = a.batch AND hash = a.asked THEN -- the write makes this commit wait for the standby too, and with that for the first one
		UPDATE agent SET tries = tries + 1 WHERE id = p_agent;
		RETURN a.answer;
	ELSIF p_batch <> a.batch + 1 THEN
		RAISE EXCEPTION 'agent % sends batch %, and % was its last', p_agent, p_batch, a.batch USING ERRCODE = 'KW002';
	END IF;
	SELECT * INTO st FROM store;
	IF st.timeline <> timeline() THEN
		RAISE EXCEPTION 'the database went on on timeline %, and not every agent has found its records there', timeline() USING ERRCODE = 'KW003';
	ELSIF st.frozen IS NOT NULL THEN
		RAISE EXCEPTION '%', st.frozen USING ERRCODE = 'KW003';
	END IF;
	requests := p_requests::jsonb;
	PERFORM FROM session WHERE id IN (SELECT coalesce(e ->> 's', e #>> '{w,id}', e #>> '{b,s}') FROM jsonb_array_elements(requests) e)
		ORDER BY id FOR NO KEY UPDATE;
	IF EXISTS (SELECT FROM jsonb_array_elements(requests) e WHERE e ? 'k' OR e #> '{b,k}' IS NOT NULL) THEN
		INSERT INTO tally (key) SELECT DISTINCT k ->> 0 FROM jsonb_array_elements(requests) e, jsonb_array_elements(coalesce(e -> 'k', e #> '{b,k}', '[]')) k
			ORDER BY 1 ON CONFLICT DO NOTHING;
		PERFORM FROM tally WHERE key IN (SELECT k ->> 0 FROM jsonb_array_elements(requests) e, jsonb_array_elements(coalesce(e -> 'k', e #> '{b,k}', '[]')) k)
			ORDER BY key FOR NO KEY UPDATE;
	END IF;
	FOR r IN SELECT value FROM jsonb_array_elements(requests) LOOP
		line := r ->> 'a';
		IF r ? 's' THEN
			v := grant_one(p_agent, a.seq + 1, r);
			line := line || verdict_of(r, v) || coalesce(r ->> 'z', '');
		ELSIF r ? 'w' THEN
			v := put(r -> 'w');
		ELSIF r ? 'b' THEN
			v := take_back(p_agent, r -> 'b');
			IF v ->> 'v' = 'stays' THEN
				line := r ->> 'f';
			END IF;
		ELSE
			v := '{"v": "ok"}';
		END IF;
		verdicts := verdicts || v;
		CONTINUE WHEN v ->> 'v' NOT IN ('ok', 'stays');
		IF line IS NULL THEN
			RAISE EXCEPTION 'a request of agent % has no record', p_agent;
		END IF;
		a.seq := a.seq + 1;
		line := '{"seq":' || a.seq || ',"prev":"' || encode(a.head, 'hex') || '",' || line || '}';
		a.head := sha256(convert_to(line, 'UTF8'));
		lines := lines || line;
	END LOOP;
	INSERT INTO journal SELECT p_agent, first + n, l FROM unnest(lines) WITH ORDINALITY u (l, n);
	DELETE FROM journal WHERE agent = p_agent AND seq < least(p_synced, first);
	a.answer := jsonb_build_object('seq', a.seq, 'head', encode(a.head, 'hex'), 'verdicts', to_jsonb(verdicts))::text;
	UPDATE agent SET batch = p_batch, asked = hash, answer = a.answer, tries = 1, seq = a.seq, head = a.head, done = greatest(done, p_done) WHERE id = p_agent;
	RETURN a.answer;
END $$;
