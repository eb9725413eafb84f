package socket

import (
	"github.com/keyward/keyward/session"
)

// output is one line for a client: the answers to one message.
type output struct {
	line []byte
	// What line was made of, kept only if an answer holds a signature: until the line is written,
	// the signature may lose its pass.
	batch   bool
	answers []answer
	errors  int // how many of the answers are errors
}

// newOutput encodes the answers to one message.
func newOutput(batch bool, answers ...answer) output {
	out := output{line: encodeAnswers(batch, answers...)}
	for i := range answers {
		if answers[i].err != nil {
			out.errors++
		}
		if answers[i].pass != nil {
			out.batch, out.answers = batch, answers
		}
	}
	return out
}

// release prepares lines for one write(2). Signatures that must not leave any more are replaced by errors. The caller
// writes the lines and then calls done. cut ends the connection; it is called if the
// write takes too long for a revoke that waits for it.
func (s *Server) release(outs []output, admin bool, cut func()) (lines [][]byte, done func()) {
	var room [1]*session.Pass // spares an allocation
	passes := room[:0]
	for _, out := range outs {
		for i := range out.answers {
			if p := out.answers[i].pass; p != nil {
				passes = append(passes, p)
			}
		}
	}
	if len(passes) == 0 {
		return linesOf(outs), func() {}
	}
	refused, done := s.Signer.Release(passes, cut)
	if refused == nil {
		return linesOf(outs), done
	}
	next := 0
	for o := range outs {
		changed := false
		for i := range outs[o].answers {
			a := &outs[o].answers[i]
			if a.pass == nil {
				continue
			}
			if err := refused[next]; err != nil {
				*a, changed = answerTo(a.id, nil, replyTo(err, admin)), true
			}
			next++
		}
		if changed {
			outs[o].line = encodeAnswers(outs[o].batch, outs[o].answers...)
		}
	}
	return linesOf(outs), done
}

func linesOf(outs []output) [][]byte {
	lines := make([][]byte, len(outs))
	for i := range outs {
		lines[i] = outs[i].line
	}
	return lines
}
