package session

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// noID is -1, by which system calls mean "no id" (setresuid(2)).
const noID = 1<<32 - 1

// defaultOverflow is the kernel's own overflow id.
const defaultOverflow = 65534

// overflowIDs are what the kernel calls every user, and every group, that a user namespace does not map
// (user_namespaces(7)): they are nobody in particular.
var overflowIDs = sync.OnceValue(func() (ids struct{ uid, gid uint32 }) {
	ids.uid = readID("/proc/sys/kernel/overflowuid")
	ids.gid = readID("/proc/sys/kernel/overflowgid")
	return ids
})

func readID(path string) uint32 {
	text, err := os.ReadFile(path)
	if err != nil {
		return defaultOverflow
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return defaultOverflow
	}
	return uint32(id)
}

// nobody says why c names no single user or group; nil if it does.
func (c Client) nobody() error {
	overflow, file := overflowIDs().uid, "overflowuid"
	if c.Group {
		overflow, file = overflowIDs().gid, "overflowgid"
	}
	switch c.ID {
	default:
		return nil
	case noID:
		return fmt.Errorf("client %q: this id is -1, which is no user or group: name the id of one", c)
	case overflow:
		return fmt.Errorf("client %q: to the kernel this is everybody whom a user namespace does not map "+
			"(/proc/sys/kernel/%s): name the id of one user or group", c, file)
	}
}

// UnmappedClients returns the clients of sessions that have not ended whose ids this process's user namespace does not
// map. They can't be told apart when they connect, and are answered as strangers.
func (s *Sessions) UnmappedClients() ([]Client, error) {
	uids, err := readIDMap("/proc/self/uid_map")
	if err != nil {
		return nil, err
	}
	gids, err := readIDMap("/proc/self/gid_map")
	if err != nil {
		return nil, err
	}
	return s.unmapped(uids, gids), nil
}

func (s *Sessions) unmapped(uids, gids idMap) (all []Client) {
	seen := map[Client]bool{}
	for sess := range s.ledger.index.briefly() {
		if sess.Status.Ended() {
			continue
		}
		for _, c := range sess.Clients {
			ids := uids
			if c.Group {
				ids = gids
			}
			if !seen[c] && !ids.covers(c.ID) {
				all = append(all, c)
			}
			seen[c] = true
		}
	}
	return all
}

// idMap is the ids of a user namespace that have one outside.
type idMap []struct{ first, count uint64 }

func (m idMap) covers(id uint32) bool {
	for _, r := range m {
		if uint64(id) >= r.first && uint64(id)-r.first < r.count {
			return true
		}
	}
	return false
}

// readIDMap reads /proc/PID/uid_map or gid_map: lines of first id inside, first id outside, count.
func readIDMap(path string) (m idMap, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var first, outside, count uint64
		if _, err := fmt.Sscan(lines.Text(), &first, &outside, &count); err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", path, lines.Text(), err)
		}
		m = append(m, struct{ first, count uint64 }{first, count})
	}
	return m, lines.Err()
}
