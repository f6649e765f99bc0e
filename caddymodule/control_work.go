package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/layout"
	"github.com/eblume/caddy-registry/storage"
)

// workLine is a line of the answer to who asked for long work: how far that is, or, at
// last, what came of it. Work that found something wrong has both a result and an error.
type workLine struct {
	Progress *storage.Progress `json:"progress,omitempty"`
	Result   json.RawMessage   `json:"result,omitempty"`
	Error    string            `json:"error,omitempty"`
}

// progressInterval is how often it is told how far work is.
const progressInterval = 100 * time.Millisecond

// work does what an order asks for, which takes long, and streams how far it is. It ends
// when the client leaves.
func work[Order, Result any](w http.ResponseWriter, r *http.Request, do func(context.Context, Order, storage.Report) (Result, error)) {
	var order Order
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		answerControl(w, nil, fmt.Errorf("order: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	s := &workStream{encoder: json.NewEncoder(w), control: http.NewResponseController(w)}
	result, err := do(r.Context(), order, s.report)
	var last workLine
	if err != nil {
		last.Error = firstLine(err.Error())
	}
	encoded, encodeErr := json.Marshal(result)
	if encodeErr != nil {
		last.Error = encodeErr.Error()
	}
	last.Result = encoded
	s.send(last)
}

// workStream sends lines, which several goroutines may want to at once.
type workStream struct {
	mu      sync.Mutex
	encoder *json.Encoder
	control *http.ResponseController
	told    time.Time // when it was last told how far the work is
}

func (s *workStream) report(p storage.Progress) {
	if p.Line == "" && !s.isTime() {
		return
	}
	s.send(workLine{Progress: &p})
}

func (s *workStream) isTime() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.told) < progressInterval {
		return false
	}
	s.told = time.Now()
	return true
}

func (s *workStream) send(line workLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A command that was interrupted gets to know nothing more.
	if s.encoder.Encode(line) == nil {
		_ = s.control.Flush()
	}
}

// errServerLeft is what a command gets to know when the server ends before its work does.
var errServerLeft = errors.New("the server ended before the work did; run the command again to go on with it")

// work asks for long work, which the order describes, has told how far it is, and reads
// what came of it into result.
func (c *controlClient) work(ctx context.Context, path string, order any, told func(storage.Progress), result any) error {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(order); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control"+path, &body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return errors.New(firstLine(string(message)))
	}
	decoder := json.NewDecoder(resp.Body)
	for {
		var line workLine
		if err := decoder.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errServerLeft
		}
		if line.Progress != nil {
			told(*line.Progress)
			continue
		}
		if line.Result != nil {
			if err := json.Unmarshal(line.Result, result); err != nil {
				return fmt.Errorf("answer of the server: %w", err)
			}
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
		return nil
	}
}

// collectOrder asks for a garbage collection.
type collectOrder struct {
	DryRun bool `json:"dry_run"`
}

// verifyOrder asks for all that is stored to be read again.
type verifyOrder struct {
	Repair bool `json:"repair"`
}

// folderOrder asks for something about a folder, by its absolute path.
type folderOrder struct {
	Folder string `json:"folder"`
}

// importOrder asks for a folder to be imported.
type importOrder struct {
	Folder string `json:"folder"`
	Prefix string `json:"prefix"`
	Link   bool   `json:"link"`
}

// exportOrder asks for content to be exported.
type exportOrder struct {
	Folder string             `json:"folder"`
	Select []layout.Selection `json:"select"`
}

// addWorkControl lets commands ask for work that takes long.
func (o *openRegistry) addWorkControl(mux *http.ServeMux, audit *slog.Logger) {
	mux.HandleFunc("POST /gc", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order collectOrder, report storage.Report) (storage.Collected, error) {
			options := o.upkeep.Load().collect
			options.DryRun, options.Report = order.DryRun, report
			return o.collect(ctx, options)
		})
	})
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order verifyOrder, report storage.Report) (storage.Verified, error) {
			options := storage.VerifyOptions{Report: report}
			if order.Repair {
				options.Repair = o.repair
			}
			return o.registry.Verify(ctx, options)
		})
	})
	mux.HandleFunc("POST /backup", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order folderOrder, report storage.Report) (backup.Summary, error) {
			if within(order.Folder, o.directory) {
				return backup.Summary{}, fmt.Errorf("%s is in the storage directory; a backup goes elsewhere", order.Folder)
			}
			return backup.Make(ctx, o.registry, order.Folder, report)
		})
	})
	mux.HandleFunc("POST /restore", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order folderOrder, report storage.Report) (backup.Summary, error) {
			summary, err := backup.Restore(ctx, o.registry, order.Folder, report)
			if err == nil {
				audit.InfoContext(ctx, "restore", "from", order.Folder, "by", "command")
			}
			return summary, err
		})
	})
	mux.HandleFunc("POST /migrate", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order migrateOrder, report storage.Report) (backup.Summary, error) {
			summary, err := o.migrate(ctx, order, report)
			if err == nil || errors.Is(err, backup.ErrIncomplete) {
				audit.InfoContext(ctx, "migrate", "blobs", summary.Blobs, "by", "command")
			}
			return summary, err
		})
	})
	mux.HandleFunc("DELETE /migrate", func(w http.ResponseWriter, r *http.Request) {
		err := backup.Stay(r.Context(), o.registry)
		if err == nil {
			audit.InfoContext(r.Context(), "migrate", "undone", true, "by", "command")
		}
		answerControl(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /import", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order importOrder, report storage.Report) (layout.Summary, error) {
			summary, err := layout.Import(ctx, o.registry, order.Folder, layout.ImportOptions{
				Prefix: order.Prefix, Link: order.Link, MaxKeyLifetime: o.upkeep.Load().maxKeyLifetime, Report: report,
			})
			audit.InfoContext(ctx, "import", "from", order.Folder, "tags", summary.Tags, "keys", summary.Keys, "by", "command")
			return summary, err
		})
	})
	mux.HandleFunc("POST /export", func(w http.ResponseWriter, r *http.Request) {
		work(w, r, func(ctx context.Context, order exportOrder, report storage.Report) (layout.Summary, error) {
			return layout.Export(ctx, o.registry, order.Select, order.Folder, layout.ExportOptions{Report: report})
		})
	})
}

// within reports whether a path is a folder, or something in it.
func within(path, folder string) bool {
	relative, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(relative)
}
