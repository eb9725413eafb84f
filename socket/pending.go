package socket

// hold counts n bytes of an answer that waits for the client. Whatever is held is given back by drop or dropHeld.
func (c *conn) hold(n int) bool {
	if !c.socket.quota.take(c.peer, bytesPending, n) {
		return false
	}
	c.held.Add(int64(n))
	return true
}

// drop gives back n bytes that the client has taken.
func (c *conn) drop(n int) {
	for {
		held := c.held.Load() // less than n if the connection has ended meanwhile
		n := min(int64(n), held)
		if c.held.CompareAndSwap(held, held-n) {
			c.socket.quota.give(c.peer, bytesPending, int(n))
			return
		}
	}
}

// dropHeld gives back all that the connection holds.
func (c *conn) dropHeld() { c.socket.quota.give(c.peer, bytesPending, int(c.held.Swap(0))) }

// holdAnswer counts n bytes of an answer of c. Where the client has no room left, its connection that holds most is
// ended, until there is. It returns false if that is c itself.
func (s *Server) holdAnswer(c *conn, n int) bool {
	for !c.hold(n) {
		most := c
		for _, other := range s.connections() {
			if other.socket == c.socket && other.shares(c) && other.held.Load() > most.held.Load()+int64(n) {
				most = other
			}
		}
		if most == c {
			return false
		}
		most.giveUp("holds most of the answers that its client does not read")
	}
	return true
}

// shares reports whether the answers of both connections have one bound: that of their user, or
// that of all users without a session.
func (c *conn) shares(other *conn) bool {
	known := c.socket.quota.known
	return c.peer.UID == other.peer.UID || !known(c.peer) && !known(other.peer)
}
