// Command serve runs the fake KMS on its own, for trying the agent without an AWS account:
//
//	go run ./backends/awskms/kmsfake/serve -listen 127.0.0.1:8080
//
// It prints its URL, and what to put into the environment.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/keyward/keyward/backends/awskms/kmsfake"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	latency := flag.Duration("latency", 0, "wait so long before each answer")
	flag.Parse()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fake := &kmsfake.Server{Latency: *latency}
	creds := kmsfake.DefaultCredentials
	fmt.Printf("http://%s\n", l.Addr())
	fmt.Printf("export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s\n", creds.AccessKeyID,
		creds.SecretAccessKey)
	server := &http.Server{Handler: fake, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(l))
}
