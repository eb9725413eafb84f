package sample

import "testing"

func TestSum(t *testing.T) {
	if got := Sum(4, 2); got != 8 {
		t.Errorf("Sum(4, 2) = %d", got)
	}
}

func TestName(t *testing.T) {
	if got := Name("a"); got != "sample a" {
		t.Error(got)
	}
	Unnoticed(true)
}
