package config

// Confine is what the agent, and the processes of its devices, may do once they run; see package confine.
type Confine struct {
	Files   bool     // bounds the files that they can open (Landlock)
	Calls   bool     // refuses system calls that they don't need (seccomp)
	Read    []string // further files and directories to read
	Write   []string // and to change
	Devices []string // further device nodes
	Execute []string // programs that they may start
}

func (c *Confine) fields() []field {
	return []field{
		{key: "files", dst: &c.Files, doc: "bound the files that the agent and the libraries of its devices can open " +
			"(Landlock)"},
		{key: "system_calls", dst: &c.Calls, doc: "refuse system calls that they don't need (seccomp)"},
		{key: "read", dst: &c.Read, doc: "further files and directories that they may read"},
		{key: "write", dst: &c.Write, doc: "further files and directories that they may read and change, as a PKCS#11 " +
			"library's own"},
		{key: "devices", dst: &c.Devices, doc: "further device nodes that they may use, as that of a PCI card"},
		{key: "execute", dst: &c.Execute, doc: "programs that they may start, as the credential_process of AWS"},
	}
}
