package session

import (
	"testing"
	"time"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

// onNode is an agent that watches a real node, through a proxy that does wrong when told to.
type onNode struct {
	*agent
	t       *testing.T
	node    *chaintest.Node
	proxy   *chaintest.Proxy
	client  *chain.Client
	watcher *Watcher
	account policy.Address
}

func startOnNode(t *testing.T, cfg WatchConfig) *onNode {
	t.Helper()
	o := &onNode{agent: newAgent(t), t: t, node: chaintest.Start(t)}
	o.proxy = chaintest.NewProxy(t, o.node.URL)
	o.account = o.node.NewAccount()
	conf := chaintest.Config(o.proxy.URL)
	conf.Attempts, conf.Timeout, conf.Rate = 1, 2*time.Second, 10_000
	var err error
	if o.client, err = chain.New(conf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.client.Close)
	o.onTime()
	o.watch(cfg)
	return o
}

// watch puts a fresh watcher in, as after a restart.
func (o *onNode) watch(cfg WatchConfig) {
	cfg.RegistryInterval = time.Nanosecond
	o.watcher = NewWatcher(o.Sessions, cfg, []WatchedChain{{Client: o.client, Validator: config.SessionKeyValidator,
		Registry: true}})
	o.Signer.Watcher = o.watcher
}

// onTime sets the agent's clock to the node's.
func (o *onNode) onTime() {
	_, now := o.node.Head()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = time.Unix(int64(now), 0)
}

// round reads the chain once and returns why that failed.
func (o *onNode) round() error {
	o.t.Helper()
	c := o.watcher.chains[chaintest.ChainID]
	o.pass(time.Millisecond) // so that the registry is asked
	o.watcher.round(o.t.Context(), c)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (o *onNode) mustRound() {
	o.t.Helper()
	if err := o.round(); err != nil {
		o.t.Fatalf("reading the chain: %v", err)
	}
}

// create makes a pending session that the registry allows.
func (o *onNode) create() *Session {
	o.t.Helper()
	req := o.createRequest()
	req.Account, req.ChainID, req.Validator = o.account, chaintest.ChainID, config.SessionKeyValidator
	sess, err := o.Create(o.t.Context(), operator, req)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, q := range sess.Spec.RegistryQueries() {
		o.node.SetRegistry(q, policy.Allowed)
	}
	o.onTime()
	return sess
}

// approved makes a session that its owner has approved and that is active.
func (o *onNode) approved() *Session {
	o.t.Helper()
	sess := o.create()
	o.node.CreateSession(o.account, sess.Spec)
	o.onTime()
	o.mustRound()
	return o.want(sess, Active)
}

// want returns the session as it is now, which has to have that status.
func (o *onNode) want(sess *Session, status Status) *Session {
	o.t.Helper()
	now, err := o.Get(sess.ID)
	if err != nil || now.Status != status {
		o.t.Fatalf("session is %v, %v, want %s", now, err, status)
	}
	return now
}

// sign has a transfer of 1 wei signed, at a fee of 10.
func (o *onNode) sign(sess *Session, nonce uint64) *Signed {
	o.t.Helper()
	signed, err := o.Sign(o.t.Context(), app, transfer(sess, nonce))
	if err != nil {
		o.t.Fatalf("signing nonce %d: %v", nonce, err)
	}
	return signed
}

// land has the chain take what sign signed: contracts check the signature and count.
func (o *onNode) land(sess *Session, nonce uint64, signed *Signed) {
	o.t.Helper()
	tx := transfer(sess, nonce).Tx
	if err := o.node.Land(sess.Account, sess.Spec, &chaintest.Transaction{
		To: tx.To, GasLimit: tx.GasLimit.ToBig(), GasPerPubdataByteLimit: tx.GasPerPubdata.ToBig(),
		MaxFeePerGas:         tx.MaxFeePerGas.ToBig(),
		MaxPriorityFeePerGas: tx.MaxPriorityFeePerGas.ToBig(), Nonce: tx.Nonce, Value: tx.Value.ToBig(),
	}, signed.Signature[:]); err != nil {
		o.t.Fatalf("landing nonce %d: %v", nonce, err)
	}
	o.onTime()
}

// fees returns what is used of the fee limit, here and on chain.
func (o *onNode) fees(sess *Session) (here, onChain uint64) {
	o.t.Helper()
	for _, u := range mustUsage(o.t, o.agent, sess.ID) {
		if u.Tracker.Kind == policy.FeeTracker {
			used := u.Used.Int()
			if u.Chain != nil {
				counted := u.Chain.Int()
				onChain = counted.Uint64()
			}
			return used.Uint64(), onChain
		}
	}
	o.t.Fatal("no fee limit")
	return
}

func (o *onNode) wantFees(sess *Session, here, onChain uint64) {
	o.t.Helper()
	if h, c := o.fees(sess); h != here || c != onChain {
		o.t.Errorf("fees used: %d here and %d on chain, want %d and %d", h, c, here, onChain)
	}
}
