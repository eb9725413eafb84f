package config

// AzureKV is an Azure Key Vault or Managed HSM; see package azurekv.
type AzureKV struct {
	Vault    string // URL
	KeyType  string // "EC" or "EC-HSM"
	Purge    bool
	InFlight int
}

func newAzureKV() Settings { return &AzureKV{KeyType: "EC-HSM", InFlight: 32} }

func (c *AzureKV) fields() []field {
	return []field{
		{key: "vault", dst: &c.Vault, doc: "https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net"},
		{key: "key_type", dst: &c.KeyType, one: []string{"EC", "EC-HSM"},
			doc: "EC-HSM: kept by an HSM; EC: by software, in vaults of the standard tier"},
		{key: "purge", dst: &c.Purge, doc: "destroy keys for good at once, instead of leaving them to be recovered for as " +
			"long as the vault says"},
		{key: "in_flight", dst: &c.InFlight, doc: "calls to the vault at a time"},
	}
}

func (c *AzureKV) validate(d *document, p path) error {
	switch {
	case c.Vault == "":
		return d.errorf(p, `backend %q has no vault; add vault = "https://NAME.vault.azure.net"`, p[1])
	case c.InFlight == 0:
		return d.errorf(p.in("in_flight"), "in_flight: must be more than 0")
	}
	return nil
}
