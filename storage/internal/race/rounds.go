// Package race lets tests that repeat themselves do so less often under the race
// detector, where SQLite, being Go, is many times slower.
package race

// Rounds returns n, or a sixth of it under the race detector.
func Rounds(n int) int {
	if enabled {
		return max(1, n/6)
	}
	return n
}

// Stride returns how far apart things are to be tried of which each would be tried
// without the race detector.
func Stride() int {
	if enabled {
		return 5 // few things that repeat do so every fifth time
	}
	return 1
}
