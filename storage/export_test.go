package storage

import "time"

// SetTouchInterval is how often it is recorded from now on that an upload goes on.
func (r *Registry) SetTouchInterval(interval time.Duration) { r.touchInterval = interval }
