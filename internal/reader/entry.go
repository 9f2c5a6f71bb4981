package reader

// An entry is a key under the job.
type entry struct {
	Key string // as Consul spells it
	value
	parsed Key
}

// value is the part of a key's value that matters. It is zero until it is read.
type value struct {
	Value       []byte
	Session     string
	CreateIndex uint64
	ModifyIndex uint64
}

// isOverwritten reports whether the value is not the first one of its key. (A
// write of the same value is none in Consul.)
func (v *value) isOverwritten() bool { return v.ModifyIndex > v.CreateIndex }

// A listing has the keys under the job.
type listing struct {
	entries []entry
	values  bool     // whether the entries have their values
	jobs    []string // the dispatches whose job's key is there
	index   uint64
}
