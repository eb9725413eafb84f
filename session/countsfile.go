package session

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/durable"
)

// countsFile is the file at [Config.CountsPath], as JSON. It is not part of a backup: devices go on counting.
type countsFile struct {
	Readings map[ID]reading `json:"readings"`
}

// loadCounts reads what devices had counted, and from the trail what was granted since. What can't be used is left out:
// the next reading of such a device is a first one.
func (s *Sessions) loadCounts() *deviceCounts {
	d := &deviceCounts{asked: map[ID]*asked{}, readings: map[ID]*reading{}, saved: map[ID]reading{}}
	if s.cfg.CountsPath == "" {
		return d
	}
	err := func() error {
		f, err := s.cfg.FS.Open(s.cfg.CountsPath)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		var file countsFile
		if err := json.Unmarshal(data, &file); err != nil {
			return err
		}
		for id, r := range file.Readings {
			d.saved[id], d.readings[id] = r, &r
		}
		return s.catchUp(d.readings)
	}()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Logger.Warn("what devices have counted is not known: their counters are read anew", "error", err)
		for _, r := range d.readings {
			r.restored = true
		}
	}
	return d
}

// catchUp adds to each reading what the trail has after it.
func (s *Sessions) catchUp(readings map[ID]*reading) error {
	var first audit.Head
	for _, r := range readings {
		hash, err := hex.DecodeString(r.Hash)
		if err != nil || len(hash) != len(first.Hash) {
			return errors.New("a reading without the hash of its record")
		}
		if first.Seq == 0 || r.Record < first.Seq {
			first = audit.Head{Seq: r.Record, Hash: [32]byte(hash)}
		}
	}
	if len(readings) == 0 {
		return nil
	}
	at, stopped := first.Seq, false
	crash := func() {
		for _, r := range readings {
			if !stopped && r.Record < at {
				r.crashes++
			}
		}
	}
	_, err := audit.ReadAfter(s.cfg.AuditPath, first, func(line []byte) error {
		var rec struct {
			Event   audit.Event
			Session ID
		}
		if err := json.Unmarshal(line, &rec); err != nil {
			return err
		}
		at++
		r := readings[rec.Session]
		switch after := r != nil && r.Record < at; {
		case after && rec.Event == audit.SignGranted:
			r.earlier++
		case after && rec.Event == audit.SignReverted && r.earlier > 0: // certainly not signed
			r.earlier--
		case rec.Event == audit.AgentStopped:
			stopped = true
		case rec.Event == audit.AgentStarted:
			crash()
			stopped = false
		case rec.Event == audit.StateRestored, rec.Event == audit.StateRepaired:
			for _, r := range readings {
				r.restored = r.restored || r.Record < at
			}
		}
		return nil
	})
	at++
	crash()
	return err
}

// saveCounts writes the readings of keys that are live, if there are new ones.
func (s *Sessions) saveCounts(live map[ID]bool) error {
	d := s.counted
	d.mu.Lock()
	changed := false
	for id, r := range d.readings {
		switch {
		case !live[id]:
			delete(d.readings, id)
			delete(d.asked, id)
			delete(d.saved, id)
			changed = true
		case r.unsaved && r.quiet:
			r.unsaved = false
			d.saved[id] = *r
			changed = true
		}
	}
	file := countsFile{Readings: maps.Clone(d.saved)}
	d.mu.Unlock()
	if !changed || s.cfg.CountsPath == "" {
		return nil
	}
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	err = durable.Files{FS: s.cfg.FS}.WriteFile(s.cfg.CountsPath, append(data, '\n'), 0o600)
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, r := range d.readings {
			r.unsaved = true
		}
	}
	return err
}
