package session

import (
	"context"
	"fmt"

	"github.com/keyward/keyward/audit"
)

// TrailArchived records that the operator has archived the first records of the trail, or deletes them. When it returns
// nil the record is on disk, and the segments can be deleted. The error wraps [ErrInvalid] if gone names a record that
// is not the last of a sealed segment, or has another hash.
func (s *Sessions) TrailArchived(ctx context.Context, by audit.Peer, gone *audit.Gone) error {
	sealed, err := audit.SealedSegments(s.cfg.AuditPath)
	if err != nil {
		return err
	}
	for _, segment := range sealed {
		if segment.Last != gone.Records || segment.Last > s.AuditHead().Sealed {
			continue
		}
		if err := segment.Ends(gone); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return s.Record(ctx, audit.Record{Event: audit.TrailArchived, Peer: &by, Detail: gone})
	}
	return fmt.Errorf("%w: record %d is not the last of a sealed segment of the trail", ErrInvalid, gone.Records)
}

// TrailErased records that the operator deletes personal data of earlier records; choice says of which, and has no
// personal data itself. When it returns nil the record is on disk, and all records before it are in sealed segments.
func (s *Sessions) TrailErased(ctx context.Context, by audit.Peer, choice any) error {
	s.ledger.sealNext.Store(true)
	return s.Record(ctx, audit.Record{Event: audit.TrailErased, Peer: &by, Detail: choice})
}
