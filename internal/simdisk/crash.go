package simdisk

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// sector is what a disk writes whole or not at all, in bytes.
const sector = 512

// content is a file's: what programs see, and what is on the disk.
type content struct {
	cached []byte
	disk   []byte
	dirty  span   // holds all that was written since the last sync
	cut    bool   // it has become shorter since the last sync
	lost   []span // what a failed sync dropped: programs see it, and no later sync writes it
}

// span is the bytes from <= i < to.
type span struct{ from, to int }

func (s span) empty() bool { return s.from >= s.to }

func (c *content) write(p []byte, at int) {
	if len(p) == 0 {
		return
	}
	end := at + len(p)
	if end > len(c.cached) {
		c.cached = append(c.cached, make([]byte, end-len(c.cached))...)
	}
	copy(c.cached[at:], p)
	written := span{at, end}
	if len(c.lost) > 0 {
		c.lost = without(c.lost, written)
	}
	if c.dirty.empty() {
		c.dirty = written
		return
	}
	c.dirty = span{min(c.dirty.from, at), max(c.dirty.to, end)}
}

// without returns what is left of spans outside of cut.
func without(spans []span, cut span) (left []span) {
	for _, s := range spans {
		for _, rest := range []span{{s.from, min(s.to, cut.from)}, {max(s.from, cut.to), s.to}} {
			if !rest.empty() {
				left = append(left, rest)
			}
		}
	}
	return left
}

// truncate makes it size bytes long.
func (c *content) truncate(size int) {
	if size > len(c.cached) {
		c.write(make([]byte, size-len(c.cached)), len(c.cached))
		return
	}
	c.cached = c.cached[:size:size]
	c.dirty.to = min(c.dirty.to, size)
	c.lost = without(c.lost, span{size, math.MaxInt})
	c.cut = true
}

// flush puts a part of what is cached on the disk.
func (c *content) flush(part span) {
	for _, s := range c.unlost(part) {
		if s.to > len(c.disk) {
			c.disk = append(c.disk, make([]byte, s.to-len(c.disk))...)
		}
		copy(c.disk[s.from:s.to], c.cached[s.from:s.to])
	}
}

func (c *content) unlost(part span) []span {
	parts := []span{part}
	for _, lost := range c.lost {
		parts = without(parts, lost)
	}
	return parts
}

func (c *content) sync() {
	if c.cut {
		c.disk, c.cut = c.disk[:min(len(c.disk), len(c.cached))], false
	}
	if !c.dirty.empty() {
		c.flush(c.dirty)
	}
	c.dirty = span{}
}

// drop is what a failed sync does: the pages count as clean.
func (c *content) drop() {
	if !c.dirty.empty() {
		c.lost = append(c.lost, c.unlost(c.dirty)...)
	}
	c.dirty = span{}
}

// directory is the names in it: those that programs see, and those on the disk.
type directory struct {
	names, synced map[string]*node
	changes       []nameChange // since the last sync, in order
}

// nameChange gives n a name, or takes the name away if n is nil. A rename takes away the name old as well.
type nameChange struct {
	name string
	n    *node
	old  string // "": no rename
}

func (c nameChange) apply(names map[string]*node) {
	if c.old != "" {
		delete(names, c.old)
	}
	if c.n == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.n
	}
}

func (dir *directory) change(c nameChange) {
	c.apply(dir.names)
	dir.changes = append(dir.changes, c)
}

func (dir *directory) set(name string, n *node) { dir.change(nameChange{name: name, n: n}) }
func (dir *directory) move(old, name string)    { dir.change(nameChange{name, dir.names[old], old}) }

func (dir *directory) sync() {
	for _, c := range dir.changes {
		c.apply(dir.synced)
	}
	dir.changes = nil
}

// Crash says what a crash leaves.
type Crash struct {
	// Power is true if the machine lost power: what was not synced is lost but for Kept. Otherwise only the process was
	// killed, and the kernel still has all that was written.
	Power bool
	// Kept is how likely each unsynced sector has reached the disk nevertheless, and each change of a directory's names
	// after those before it, in percent.
	Kept int
	RNG  *rand.Rand
}

// Snapshot returns the disk as a crash leaves it now.
func (d *Disk) Snapshot(c Crash) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.SnapshotLocked(c)
}

// SnapshotLocked is Snapshot for a function that the disk calls; see [Disk.Before].
func (d *Disk) SnapshotLocked(c Crash) *Disk {
	next := New()
	next.ops, next.temps = d.ops, d.temps
	seen := map[*node]*node{}
	if c.Power {
		next.root = c.lose(d.root, seen)
	} else {
		next.root = keep(d.root, seen)
	}
	return next
}

// keep copies all of n.
func keep(n *node, seen map[*node]*node) *node {
	if n == nil || seen[n] != nil {
		return seen[n]
	}
	next := &node{content: n.content}
	seen[n] = next
	if n.dir == nil {
		next.cached, next.disk, next.lost = slices.Clone(n.cached), slices.Clone(n.disk), slices.Clone(n.lost)
		return next
	}
	next.dir = &directory{names: map[string]*node{}, synced: map[string]*node{}}
	for name, child := range n.dir.names {
		next.dir.names[name] = keep(child, seen)
	}
	for name, child := range n.dir.synced {
		next.dir.synced[name] = keep(child, seen)
	}
	for _, c := range n.dir.changes {
		next.dir.changes = append(next.dir.changes, nameChange{c.name, keep(c.n, seen), c.old})
	}
	return next
}

// lose copies what a power cut leaves of n.
func (c Crash) lose(n *node, seen map[*node]*node) *node {
	if seen[n] != nil {
		return seen[n]
	}
	next := &node{}
	seen[n] = next
	if n.dir == nil {
		after := content{cached: n.cached, disk: slices.Clone(n.disk), lost: n.lost}
		for at := n.dirty.from; at < n.dirty.to; at = at/sector*sector + sector {
			if c.chance() {
				after.flush(span{at, min(n.dirty.to, at/sector*sector+sector)})
			}
		}
		next.content = content{cached: after.disk, disk: slices.Clone(after.disk)}
		return next
	}
	names := maps.Clone(n.dir.synced)
	for _, change := range n.dir.changes { // in order: a journal of names is cut off somewhere
		if !c.chance() {
			break
		}
		change.apply(names)
	}
	next.dir = newDir().dir
	for _, name := range slices.Sorted(maps.Keys(names)) { // in order, so that the same seed loses the same
		next.dir.names[name] = c.lose(names[name], seen)
	}
	next.dir.synced = maps.Clone(next.dir.names)
	return next
}

func (c Crash) chance() bool { return c.Kept > 0 && c.RNG.IntN(100) < c.Kept }
