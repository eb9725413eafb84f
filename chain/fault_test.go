package chain_test

import "encoding/hex"

func hexOf(b []byte) string { return "0x" + hex.EncodeToString(b) }
