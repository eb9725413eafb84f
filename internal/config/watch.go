package config

import "time"

// Watch is how the chains that have an rpc are watched.
type Watch struct {
	Interval         time.Duration // between readings of a chain
	ClockBound       time.Duration // between the agent's clock and block times; 0: not compared
	RegistryInterval time.Duration // between readings of a policy registry
	RegistryMaxAge   time.Duration // of its answer, after which nothing is signed; 0: no answer is too old
	ExternalUsage    string        // "alarm" or "stop"
}

func defaultWatch() Watch {
	return Watch{Interval: 15 * time.Second, ClockBound: time.Minute, RegistryInterval: time.Minute,
		ExternalUsage: "alarm"}
}

func (w *Watch) fields() []field {
	return []field{
		{key: "interval", dst: &w.Interval, doc: "between readings of a chain that has an rpc"},
		{key: "clock_bound", dst: &w.ClockBound, doc: "sign nothing when the clock and block times differ by more; 0s " +
			"compares nothing"},
		{key: "registry_interval", dst: &w.RegistryInterval, doc: "between readings of the policy registry"},
		{key: "registry_max_age", dst: &w.RegistryMaxAge,
			doc: "sign nothing when the registry's answer is older; 0s lets a registry that can't be read stop nothing"},
		{key: "external_usage", dst: &w.ExternalUsage, one: []string{"alarm", "stop"},
			doc: "alarm or stop: what becomes of a session that is used from elsewhere"},
	}
}

// validateWatch refuses to read without a pause.
func (d *document) validateWatch(w *Watch) error {
	for _, f := range w.fields() {
		if (f.key == "interval" || f.key == "registry_interval") && isZero(f.dst) {
			return d.errorf(path{"watch", f.key}, "%s: must be more than 0", f.key)
		}
	}
	return nil
}
