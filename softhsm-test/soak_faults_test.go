//go:build soak || lossy

package softhsmtest

import (
	"context"
	"math/rand/v2"
	"time"
)

// What the device of the faulty session does from time to time. A wrong PIN is not among it: the agent would not try
// again.
var (
	faultyCalls = []string{"SignInit", "Sign", "Sign", "Sign", "OpenSession", "GetSessionInfo", "FindObjectsInit",
		"FindObjects", "GetAttributeValue", "GetTokenInfo", "GetSlotInfo"}
	faultyCodes = []uint64{
		0x02,  // CKR_HOST_MEMORY
		0x05,  // CKR_GENERAL_ERROR
		0x06,  // CKR_FUNCTION_FAILED
		0x30,  // CKR_DEVICE_ERROR
		0x31,  // CKR_DEVICE_MEMORY
		0x32,  // CKR_DEVICE_REMOVED
		0x82,  // CKR_OBJECT_HANDLE_INVALID
		0xB3,  // CKR_SESSION_HANDLE_INVALID
		0x101, // CKR_USER_NOT_LOGGED_IN
		0xE0,  // CKR_TOKEN_NOT_PRESENT
	}
)

// injectUntil breaks the faulty device again and again. It leaves it sound.
func (s *soak) injectUntil(ctx context.Context) {
	s.faulty.Release.Store(0)
	for ctx.Err() == nil {
		s.inject()
		select {
		case <-time.After(time.Duration(50+rand.IntN(500)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
	for _, name := range faultyCalls {
		s.faulty.On(name).Set(Return, 0, 0)
	}
	s.faulty.SignFlip.Store(0)
	s.faulty.MaxSessions.Store(0)
	s.faulty.Release.Store(1)
}

// unlock is the operator, who gives a device its PIN again. The agent does not try a PIN by itself that a process took
// with it in C_Login: the device may have counted it.
func (s *soak) unlock(backend string) {
	s.operator.Lock()
	defer s.operator.Unlock()
	// it fails while the agent is down, or a fault is in the way
	if _, err := s.a.try("unlock", "--backend", backend); err == nil {
		s.unlocks++
	}
}

func (s *soak) inject() {
	s.broken++
	call, code := faultyCalls[rand.IntN(len(faultyCalls))], faultyCodes[rand.IntN(len(faultyCodes))]
	times := uint64(1 + rand.IntN(3))
	switch rand.IntN(12) {
	case 0:
		s.faulty.On("Sign").Set(Abort, 0, 1)
	case 1:
		s.faulty.On(call).Set(SegFault, 0, 1)
	case 2:
		s.faulty.On("Sign").Set(Hang, 0, 1)
	case 3:
		s.faulty.On("Sign").Set(CloseAll, 0, 1)
	case 4:
		s.faulty.On("Sign").Set(Lose, code, times)
	case 5:
		s.faulty.On(call).Set(Delay, uint64(rand.IntN(300)), times)
	case 6:
		s.faulty.SignFlip.Store(uint64(rand.IntN(2)))
	case 7:
		s.faulty.MaxSessions.Store(uint64(rand.IntN(3)))
	default:
		s.faulty.On(call).Set(Return, code, times)
	}
}
