package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, in which /proc counts: 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// procStat is what is read of /proc/<pid>/stat.
type procStat struct {
	parent int
	cpu    time.Duration // user and system time
}

func statOf(pid int) (procStat, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(string(line))
}

// parseStat reads a line of /proc/<pid>/stat. Its second field, the command in
// parentheses, may itself have spaces and parentheses.
func parseStat(line string) (procStat, error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("no command in %q", line)
	}
	fields := strings.Fields(line[end+1:]) // from the third field on
	if len(fields) < 13 {
		return procStat{}, fmt.Errorf("too few fields in %q", line)
	}
	parent, err := strconv.Atoi(fields[1])
	user, userErr := strconv.ParseInt(fields[11], 10, 64)
	system, systemErr := strconv.ParseInt(fields[12], 10, 64)
	ticks := user + system
	return procStat{parent: parent, cpu: time.Duration(ticks) * time.Second / ticksPerSecond}, errors.Join(err, userErr, systemErr)
}

// parseStatus returns a field of /proc/<pid>/status that is in kB, as bytes.
func parseStatus(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		value, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		number, ok := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if !ok {
			return 0, fmt.Errorf("%s is not in kB: %q", field, line)
		}
		n, err := strconv.ParseInt(number, 10, 64)
		return n << 10, err
	}
	return 0, fmt.Errorf("no field %s", field)
}

// family returns the process pid and its children, as nginx's workers are.
func family(pid int) []int {
	pids := []int{pid}
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		child, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			continue
		}
		// A process may be gone since the folder was listed.
		if stat, err := statOf(child); err == nil && stat.parent == pid {
			pids = append(pids, child)
		}
	}
	return pids
}

// cpuOf returns the processor time that a process and its children have used.
func cpuOf(pid int) (time.Duration, error) {
	var total time.Duration
	for _, p := range family(pid) {
		stat, err := statOf(p)
		if err != nil {
			return 0, err
		}
		total += stat.cpu
	}
	return total, nil
}

// memoryOf returns the bytes of memory that a process and its children have resident
// (field VmRSS) or had at most (VmHWM).
func memoryOf(pid int, field string) (int64, error) {
	var total int64
	for _, p := range family(pid) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			return 0, err
		}
		n, err := parseStatus(string(status), field)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}
