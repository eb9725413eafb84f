package config

import (
	"bytes"
	"errors"
	"os"

	"github.com/pelletier/go-toml/v2"
)

// Sockets returns the part of the configuration in file that says where the sockets are, for commands that talk to a
// running agent. It reads past what [Load] rejects, because a mistake in the file must not keep the operator from the
// agent that runs with an older version of it. Whatever it can't read has its default.
func Sockets(file string) Agent {
	agent := Defaults().Agent
	data, err := os.ReadFile(file)
	if err != nil {
		return agent
	}
	var found struct {
		Agent struct {
			Socket      string `toml:"socket"`
			AdminSocket string `toml:"admin_socket"`
		} `toml:"agent"`
	}
	for {
		err := toml.Unmarshal(data, &found)
		var syntax *toml.DecodeError
		if err == nil || !errors.As(err, &syntax) {
			break
		}
		line, _ := syntax.Position()
		shorter := firstLines(data, line-1)
		if len(shorter) == len(data) {
			break
		}
		data = shorter // what stands before the mistake still counts
	}
	if found.Agent.Socket != "" {
		agent.Socket = found.Agent.Socket
	}
	if found.Agent.AdminSocket != "" {
		agent.AdminSocket = found.Agent.AdminSocket
	}
	return agent
}

func firstLines(data []byte, n int) []byte {
	end := 0
	for range n {
		i := bytes.IndexByte(data[end:], '\n')
		if i < 0 {
			return data
		}
		end += i + 1
	}
	return data[:end]
}
