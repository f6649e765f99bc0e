//go:build e2e

package e2e

import (
	"bufio"
	"encoding/xml"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTheSystemdUnitIsRight and hardened, and says that it is ready when the registry
// answers.
func TestTheSystemdUnitIsRight(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	h := newHome(t)
	unit := exampleFile(t, "blumeops/systemd/caddy-registry.service")
	h.write("secrets", "OIDC_CLIENT_SECRET=x\n")
	file := h.write("caddy-registry.service", replaced(t, unit, "/usr/local/bin/caddy", caddyBinary, "/etc/caddy/env", h.path("secrets"), "User=caddy\nGroup=caddy\n", "User=daemon\nGroup=daemon\n"))
	stdout, stderr, err := h.try(analyze, "verify", "--man=no", file)
	// Of other units of the machine it may complain too.
	if err != nil || strings.Contains(stdout+stderr, "caddy-registry.service") {
		t.Errorf("systemd-analyze verify: %v\n%s%s", err, stdout, stderr)
	}
	// 0 is sealed off, 10 is open; what has an exposure of more than the threshold fails.
	if stdout, stderr, err := h.try(analyze, "security", "--offline=yes", "--threshold=25", file); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s%s", err, stdout, stderr)
	}
}

// TestTheServerTellsSystemdThatItIsReady is what the unit's Type=notify asks for.
func TestTheServerTellsSystemdThatItIsReady(t *testing.T) {
	h := newHome(t)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() }) // when the server has told that it stops
	h.env = append(h.env, "NOTIFY_SOCKET="+h.path("notify"), "STORAGE="+h.path("registry"), "PORT="+unusedPort(t), "CADDY_ADMIN=127.0.0.1:"+unusedPort(t))
	h.start(caddyBinary, "run", "--adapter", "caddyfile", "--config", h.write("Caddyfile", registryCaddyfile))
	if err := socket.SetReadDeadline(time.Now().Add(grace)); err != nil {
		t.Fatal(err)
	}
	for told := ""; !strings.Contains(told, "READY=1"); {
		message := make([]byte, 1000)
		n, err := socket.Read(message)
		if err != nil {
			t.Fatalf("systemd is told %q, then %v", told, err)
		}
		told = string(message[:n])
	}
}

// TestTheLaunchdAgentIsRight: it is a property list, of a label, a program and logs.
func TestTheLaunchdAgentIsRight(t *testing.T) {
	h := newHome(t)
	file := examplePath(t, "blumeops/launchd/mcquack.caddy.plist")
	h.run(tool(t, "plistutil"), "-i", file, "-o", h.path("binary"))
	h.run(tool(t, "plistutil"), "-i", h.path("binary"), "-o", h.path("xml"))
	agent := plistStrings(t, h.read("xml"))
	if agent["Label"]+".plist" != filepath.Base(file) {
		t.Errorf("its label is %q", agent["Label"])
	}
	for _, key := range []string{"RunAtLoad", "KeepAlive"} {
		if agent[key] != "true" {
			t.Errorf("%s is %q", key, agent[key])
		}
	}
	for _, key := range []string{"StandardOutPath", "StandardErrorPath"} {
		if !strings.HasSuffix(agent[key], ".log") {
			t.Errorf("%s is %q", key, agent[key])
		}
	}
	// What it starts, with its files where it looks for them.
	h.write(".config/caddy/env", "NAME_OF_SECRET=of-the-file\nSTORAGE="+h.path("registry")+"\nPORT="+unusedPort(t)+"\nCADDY_ADMIN=127.0.0.1:"+unusedPort(t)+"\n")
	h.write(".config/caddy/Caddyfile", registryCaddyfile)
	if err := os.Symlink(caddyBinary, filepath.Join(h.mkdir(".local/bin"), "caddy")); err != nil {
		t.Fatal(err)
	}
	command := strings.Split(agent["ProgramArguments"], "\n")
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Dir = h.env, h.dir
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := false
	for lines := bufio.NewScanner(output); !running && lines.Scan(); {
		running = strings.Contains(lines.Text(), "serving initial configuration")
	}
	if !running {
		t.Errorf("%q does not start the server", command)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_, _ = io.Copy(io.Discard, output)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// plistStrings returns the entries of a property list's dictionary; what they consist of
// is joined by newlines, and the elements true and false are those words.
func plistStrings(t *testing.T, content []byte) map[string]string {
	t.Helper()
	found := make(map[string]string)
	decoder := xml.NewDecoder(strings.NewReader(string(content)))
	var key, text string
	depth := 0
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			depth++
			text = ""
		case xml.CharData:
			text += string(token)
		case xml.EndElement:
			depth--
			name := token.Name.Local
			switch {
			case name == "key" && depth == 2: // plist, dict
				key = text
			case name == "true" || name == "false":
				found[key] = name
			case name == "string" || name == "integer":
				if found[key] != "" {
					text = "\n" + text
				}
				found[key] += text
			}
			text = ""
		}
	}
}
