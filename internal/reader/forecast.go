package reader

import "time"

const (
	// A listing brings the values along if it repeats at most maxStaleBytes of
	// old ones and no more than maxNewBytes of new ones are expected. That
	// saves the requests for the values.
	maxStaleBytes = 16 << 10
	maxNewBytes   = 4 << 20

	// keySize is about what a key takes in such a listing besides its value.
	keySize = 200

	// The forecast of new bytes is the last listing's, in proportion to the
	// time since. It is not used if that time is over maxGap, as after a slow
	// callback, or over both minGap and several times the last interval.
	minGap = 50 * time.Millisecond
	maxGap = time.Second
)

// forecast decides whether the next listing brings values or names only.
type forecast struct {
	listedAt   time.Time     // when the last listing came; at first, when reading began
	interval   time.Duration // how long the last listing's new values took to come
	newBytes   int           // bytes of new values in the last listing
	staleBytes int           // bytes of old values that a full listing would repeat
	keptBytes  int           // bytes of unread values in the last full listing
}

// wantsValues reports whether a listing at now with values has few enough
// bytes.
func (f *forecast) wantsValues(now time.Time) bool {
	gap := now.Sub(f.listedAt)
	known := gap <= min(max(minGap, 4*f.interval), maxGap)
	return known && f.staleBytes <= maxStaleBytes &&
		float64(f.newBytes)*float64(gap) <= maxNewBytes*float64(f.interval)
}

// listed begins a new interval, with a listing that was asked for at one time
// and came at another.
func (f *forecast) listed(asked, came time.Time) {
	// A listing that waits is answered at the first change.
	f.interval = min(came.Sub(f.listedAt), asked.Sub(f.listedAt)+minGap)
	f.newBytes, f.listedAt = 0, came
}

// count adds the output in records to the new bytes.
func (f *forecast) count(records []Record) {
	for _, rec := range records {
		if rec.Kind == Output {
			f.newBytes += len(rec.Value)
		}
	}
}

// measure estimates what the next full listing would repeat of this one. It
// returns the entries that l has read and about how many bytes they take there.
func (f *forecast) measure(found listing, l *ledger) (read []*entry, readBytes int) {
	keptBytes := 0
	for i := range found.entries {
		e := &found.entries[i]
		size := keySize + len(e.Value)
		if !found.values && !l.fenced[e.Key] {
			size += maxChunk // or less
		}
		if l.isRead(e) {
			read = append(read, e)
			readBytes += size
		} else {
			keptBytes += size
		}
	}
	if found.values {
		f.keptBytes = keptBytes
	}
	f.staleBytes = readBytes + max(keptBytes, f.keptBytes)
	return read, readBytes
}
