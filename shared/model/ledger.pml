/* Two agents, one limit, a database that may lose its last commit in a failover. `make model` lets spin look at every order of these steps.
 *
 * What must hold: what was released never exceeds the limit, and after a revoke was answered as complete nothing is released but what a
 * fence has named, or has said that it can't name. An agent that is killed is one that takes no further step.
 *
 * With -DNOGUARD agents do not look for their records after a failover. With -DNOFENCE the database does not look at epochs and statuses. With -DNOACK a
 * revoke does not wait for agents. With -DGUESS an agent without an answer takes its charge for made. Spin finds a violation of each.
 */
#define LIMIT 1                     /* each charge is 1 */

/* the database, and its state before the last commit: a failover may set it back to that */
byte used, used0;
byte seq[2], seq0[2];               /* the last batch of each agent */
bool revoked, revoked0;
bool fenced[2], fenced0[2];
bool held, held0;                   /* an agent was fenced that had not found its records: nothing is charged */
bool frozen;                        /* the timeline has changed, and some agent has not found its records */
bool found[2];

/* the agents' disks, and what they know */
byte mark[2];                       /* the last batch that was answered */
bool knows[2];                      /* of the revoke; on disk before the agent acknowledges it */
bool acked[2];

/* what the world has seen */
byte released;
bool complete;                      /* the revoke was answered */
byte named[2];                      /* the last batch that a fence has named */
bool unnamed[2];                    /* the fence has said that it can't name all: the database may have lost some */

inline commit() {
	used0 = used; seq0[0] = seq[0]; seq0[1] = seq[1]; revoked0 = revoked; fenced0[0] = fenced[0]; fenced0[1] = fenced[1]; held0 = held
}

inline confirm() {
	if
	:: (found[0] || fenced[0]) && (found[1] || fenced[1]) -> frozen = false
	:: else
	fi
}

#ifdef NOFENCE
#define REFUSES false
#else
#define REFUSES (fenced[me] || revoked)
#endif
#ifdef NOGUARD
#define FROZEN false
#else
#define FROZEN frozen
#endif
#ifdef NOACK
#define OBEYED true
#else
#define OBEYED ((acked[0] || fenced[0]) && (acked[1] || fenced[1]))
#endif
proctype agent(byte me) {
	byte batch = 0;                 /* under way; 0: none */
	byte batches = 0;               /* bounds the states */
	bool answered = false, ok = false;

	do
	:: batch == 0 && batches < 2 && !knows[me] -> atomic {
		batches++; batch = mark[me] + 1; answered = false; ok = false }

	/* one call of charge: it commits or does not, and its answer arrives or does not */
	:: batch != 0 && !answered -> atomic {
		if
		:: seq[me] == batch -> ok = true; answered = true
		:: seq[me] != batch && (REFUSES || held) -> answered = true
		:: seq[me] != batch && !REFUSES && !held && FROZEN -> answered = true
		:: seq[me] != batch && !REFUSES && !held && !FROZEN ->
			if
			:: used + 1 > LIMIT -> answered = true
			:: used + 1 <= LIMIT ->
				commit(); used++; seq[me] = batch;
				if
				:: ok = true; answered = true
				:: skip             /* the answer is lost: it is asked again */
				fi
			fi
#ifdef GUESS
		:: ok = true; answered = true
#endif
		fi }

	:: batch != 0 && answered && !ok -> batch = 0

	/* the mark is on disk before the signature leaves */
	:: batch != 0 && answered && ok && mark[me] < batch -> mark[me] = batch
	:: batch != 0 && answered && ok && mark[me] >= batch -> atomic {
		if
		:: !knows[me] ->
			released++;
			assert(released <= LIMIT);
			assert(!complete || batch <= named[me] || unnamed[me])
		:: knows[me]
		fi;
		batch = 0 }

	/* a release is one step here, so that none is under way when the agent acknowledges */
	:: revoked && !knows[me] -> knows[me] = true
	:: revoked && knows[me] && !acked[me] -> acked[me] = true

	/* it joins: the database must have what is on the agent's disk. One goroutine joins and marks, so that no answer is there without its mark */
	:: frozen && !found[me] && !fenced[me] && seq[me] >= mark[me] && (revoked || !knows[me]) && !(batch != 0 && answered && ok && mark[me] < batch) -> atomic {
		found[me] = true; confirm() }
	od
}

/* the database fails over once, to a standby that may not have the last commit */
proctype failover() {
	atomic {
		if
		:: used = used0; seq[0] = seq0[0]; seq[1] = seq0[1]; revoked = revoked0; fenced[0] = fenced0[0]; fenced[1] = fenced0[1]; held = held0
		:: skip
		fi;
		frozen = true; found[0] = false; found[1] = false
	}
}

inline fence(which) {
	commit(); fenced[which] = true; named[which] = seq[which];
	if
	:: frozen && !found[which] -> held = true; unnamed[which] = true
	:: else
	fi;
	confirm()
}

/* the operator revokes, and may fence an agent, also one that runs */
proctype operator() {
	bool asked = false;
	do
	:: !asked -> atomic { asked = true; commit(); revoked = true }
	:: asked && revoked && !complete && OBEYED -> complete = true
	:: !fenced[0] -> atomic { fence(0) }
	:: !fenced[1] -> atomic { fence(1) }
	od
}

init { atomic { run agent(0); run agent(1); run failover(); run operator() } }
