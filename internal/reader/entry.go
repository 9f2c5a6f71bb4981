package reader

// An entry is a key under the job.
type entry struct {
	Key string // as Consul spells it
	value
	parsed Key
}

// value is the part of a key's value that matters. It is zero until it is read.
type value struct {
	Value   []byte
	Session string
}

// A listing has the keys under the job.
type listing struct {
	entries []entry
	values  bool     // whether the entries have their values
	jobs    []string // the dispatches whose job's key is there
	index   uint64
}
