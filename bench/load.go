package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// load asks a server for one path again and again, from keep-alive clients, and returns
// how many answers it got per second.
type load func(ctx context.Context, t target, clients int, duration time.Duration) (float64, error)

// target is what a load asks for.
type target struct {
	address, path string
	authorization string // the value of the header, or empty
}

// findLoad returns the lightest load generator there is, and its name.
func findLoad() (load, string) {
	if path, err := findTool("wrk"); err == nil {
		return wrk(path), "wrk"
	}
	return loop, "a Go loop"
}

// wrk is a load by the program of this name at path.
func wrk(path string) load {
	return func(ctx context.Context, t target, clients int, duration time.Duration) (float64, error) {
		// wrk takes whole seconds.
		seconds := max(1, int(duration.Round(time.Second).Seconds()))
		args := []string{"-t1", fmt.Sprintf("-c%d", clients), fmt.Sprintf("-d%ds", seconds), "--timeout", "30s", "-H", "Accept: " + manifestType}
		if t.authorization != "" {
			args = append(args, "-H", "Authorization: "+t.authorization)
		}
		cmd := exec.CommandContext(ctx, path, append(args, "http://"+t.address+t.path)...)
		output, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("wrk: %w: %s", err, output)
		}
		return parseWrk(string(output))
	}
}

// parseWrk returns the requests per second that wrk tells, or an error if not all
// answers were good.
func parseWrk(output string) (float64, error) {
	rate := -1.0
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Socket errors:") || strings.HasPrefix(line, "Non-2xx") {
			return 0, errors.New("wrk: " + line)
		}
		if value, ok := strings.CutPrefix(line, "Requests/sec:"); ok {
			var err error
			if rate, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil {
				return 0, err
			}
		}
	}
	if rate < 0 {
		return 0, fmt.Errorf("wrk: no rate in %q", output)
	}
	return rate, nil
}

// loop is a load without another program. After the first answer it only counts bytes,
// for the other answers have as many.
func loop(ctx context.Context, t target, clients int, duration time.Duration) (float64, error) {
	answers := make([]int, clients)
	header := "Accept: " + manifestType + "\r\n"
	if t.authorization != "" {
		header += "Authorization: " + t.authorization + "\r\n"
	}
	took, err := parallel(ctx, clients, t.address, func(_ context.Context, c *client, i int) error {
		request := []byte("GET " + t.path + " HTTP/1.1\r\nHost: " + t.address + "\r\n" + header + "\r\n")
		if _, err := c.conn.Write(request); err != nil {
			return err
		}
		size, err := answerSize(c)
		if err != nil {
			return err
		}
		answer := make([]byte, size)
		for end := time.Now().Add(duration); time.Now().Before(end); answers[i]++ {
			if _, err := c.conn.Write(request); err != nil {
				return err
			}
			if _, err := io.ReadFull(c.conn, answer); err != nil {
				return err
			}
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
				return fmt.Errorf("answer begins %.40q", answer)
			}
		}
		return nil
	})
	total := 0
	for _, n := range answers {
		total += n
	}
	return float64(total) / took.Seconds(), err
}

// answerSize reads an answer and returns how many bytes it has, with its header.
func answerSize(c *client) (int, error) {
	counter := &countingReader{Reader: c.conn}
	c.reader.Reset(counter)
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return counter.size, err
}

type countingReader struct {
	io.Reader
	size int
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.size += n
	return n, err
}
