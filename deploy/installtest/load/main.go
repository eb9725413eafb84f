// Command load asks an agent for signatures at a steady rate, each over a connection of its own, until a file exists.
// It is what the install test has an app do while the agent restarts.
//
//	load SOCKET SESSION STOPFILE
//
// It prints the numbers of requests that were signed, refused a connection, lost (the connection ended without an
// answer; each is sent again) and denied, and the longest wait for an answer.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

const perSecond = 20

type counts struct {
	mu                            sync.Mutex
	signed, refused, lost, denied int
	longest                       time.Duration
	first                         string // unexpected answer
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: load SOCKET SESSION STOPFILE")
		os.Exit(2)
	}
	var c counts
	var requests sync.WaitGroup
	tick := time.NewTicker(time.Second / perSecond)
	for nonce := 1; ; nonce++ {
		if _, err := os.Stat(os.Args[3]); err == nil {
			break
		}
		requests.Go(func() { c.sign(os.Args[1], os.Args[2], nonce) })
		<-tick.C
	}
	requests.Wait()
	fmt.Printf("signed=%d refused=%d lost=%d denied=%d longest=%v %s\n", c.signed, c.refused, c.lost, c.denied,
		c.longest.Round(time.Millisecond), c.first)
	if c.refused > 0 || c.denied > 0 || c.signed == 0 {
		os.Exit(1)
	}
}

// sign asks for one signature, again if the connection ends without an answer, as clients of a server that may crash
// do.
func (c *counts) sign(socket, session string, nonce int) {
	request := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"session_signTransaction","params":[{"session":%q,`+
		`"from":"0x1111111111111111111111111111111111111111","to":"0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA",`+
		`"data":"0x40c10f19000000000000000000000000a16081f360e3847006db660bae1c6d1b2e17ec2a%064x","gas":"300000",`+
		`"maxFeePerGas":"25000000","nonce":%d,"chainId":11124}]}`+"\n", session, 3, nonce)
	began := time.Now()
	for {
		line, err := ask(socket, request)
		c.mu.Lock()
		done := true
		switch {
		case err != nil:
			c.refused++
			c.note(err.Error())
		case line == "":
			c.lost++
			done = false
		case !signed(line):
			c.denied++
			c.note(line)
		default:
			c.signed++
		}
		c.longest = max(c.longest, time.Since(began))
		c.mu.Unlock()
		if done {
			return
		}
	}
}

func (c *counts) note(what string) {
	if c.first == "" {
		c.first = strings.TrimSpace(what)
	}
}

// ask sends a request over a new connection. err is that of connecting only; the answer is "" if the connection ended
// without one.
func ask(socket, request string) (answer string, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(request)); err != nil {
		return "", nil
	}
	answer, err = bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", nil
	}
	return answer, nil
}

func signed(line string) bool {
	var reply struct {
		Result struct{ Signature string }
	}
	return json.Unmarshal([]byte(line), &reply) == nil && strings.HasPrefix(reply.Result.Signature, "0x")
}
