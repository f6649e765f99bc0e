//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// trace is what strace writes of a server's system calls.
type trace struct {
	p    *process
	file string
}

// traced makes a server that is started next run under strace, which notes the calls
// that expression names.
func traced(t *testing.T, p *process, expression string) *trace {
	t.Helper()
	_, err := exec.LookPath("strace")
	needs(t, "strace", err)
	file := filepath.Join(t.TempDir(), "trace")
	// -D: the server is the process that is started, so that it gets the signals.
	p.prefix = []string{"strace", "-D", "-f", "-y", "-s", "64", "--seccomp-bpf", "-o", file, "-e", "trace=" + expression}
	return &trace{p, file}
}

// tracedCall is a system call that a trace shows.
type tracedCall struct {
	name   string
	line   string // as strace writes it, put together if it was interrupted
	began  int    // the place in the trace where it was entered
	ended  int    // and where it returned; the same if nothing happened meanwhile
	result int64
}

var (
	// The folder in which a path begins is said of absolute paths too.
	startFolder = regexp.MustCompile(`AT_FDCWD<[^>]*>`)
	callLine    = regexp.MustCompile(`^(\d+) +(\w+)\(.*$`)
	resumedLine = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	resultField = regexp.MustCompile(`\) += (-?\d+)`)
)

const unfinished = " <unfinished ...>"

// read returns the calls of a server that has ended, in the order in which they began.
func (tr *trace) read(t *testing.T) []*tracedCall {
	t.Helper()
	// The tracer ends after the server.
	end := fmt.Sprintf("\n%d +++ ", tr.p.cmd.Process.Pid)
	var content []byte
	tr.p.eventually("the trace is complete", func() bool {
		var err error
		content, err = os.ReadFile(tr.file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(spaces.ReplaceAll(content, []byte(" ")), []byte(end))
	})
	var calls []*tracedCall
	open := make(map[string]*tracedCall) // by thread
	scanner := bufio.NewScanner(bytes.NewReader(content))
	for n := 0; scanner.Scan(); n++ {
		line := startFolder.ReplaceAllLiteralString(scanner.Text(), "AT_FDCWD")
		if match := resumedLine.FindStringSubmatch(line); match != nil {
			call := open[match[1]]
			if call == nil || call.name != match[2] {
				t.Fatalf("line %d of the trace resumes what was not begun: %s", n+1, line)
			}
			delete(open, match[1])
			call.line += match[3]
			call.finish(n)
			continue
		}
		match := callLine.FindStringSubmatch(line)
		if match == nil {
			continue // a signal, or the end of a thread
		}
		call := &tracedCall{name: match[2], line: line, began: n}
		calls = append(calls, call)
		if begun, cut := strings.CutSuffix(line, unfinished); cut {
			call.line = begun
			call.ended = -1
			open[match[1]] = call
			continue
		}
		call.finish(n)
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return calls
}

var spaces = regexp.MustCompile(` +`)

func (s *tracedCall) finish(n int) {
	s.ended = n
	s.result = -1
	if match := resultField.FindAllStringSubmatch(s.line, -1); match != nil {
		s.result, _ = strconv.ParseInt(match[len(match)-1][1], 10, 64) // only digits
	}
}

// pathsUnder returns the parts after root of the paths under it that a call names, by
// name or by the file that is open.
func (s *tracedCall) pathsUnder(root string) []string {
	var paths []string
	for _, rest := range strings.Split(s.line, root+"/")[1:] {
		paths = append(paths, rest[:strings.IndexAny(rest+">", `>"`)])
	}
	return paths
}

// pathUnder returns the first of pathsUnder, or nothing.
func (s *tracedCall) pathUnder(root string) string {
	if paths := s.pathsUnder(root); len(paths) > 0 {
		return paths[0]
	}
	return ""
}
