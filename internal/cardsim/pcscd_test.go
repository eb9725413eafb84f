package cardsim

import (
	"testing"
)

func TestPCSCDSeesCards(t *testing.T) {
	p := StartPCSCD(t)
	states, err := p.States()
	if err != nil {
		t.Fatal(err)
	}
	if len(states) != Readers || states[0].Present || states[1].Present || states[0].Name != ReaderName+" 00 00" {
		t.Fatalf("readers at the start: %+v", states)
	}
	p.Insert(t, 0, NewCard())
	p.Insert(t, 1, NewCard())
	p.Remove(0)
	p.AwaitEmpty(t, 0)
	p.Kill()
	if _, err := p.States(); err == nil {
		t.Fatal("a killed pcscd answers")
	}
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	states, err = p.States()
	if err != nil {
		t.Fatal(err)
	}
	if states[0].Present || !states[1].Present {
		t.Errorf("readers after the restart: %+v", states)
	}
}
