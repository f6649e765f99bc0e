package job

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	// keysLast is how long keys are used before they are read again: a key that was
	// withdrawn works no longer.
	keysLast = 15 * time.Minute
	// askAgain is how long nobody is asked after an issuer was, whatever it answered.
	askAgain = 3 * time.Second
	// refuseAgain is how long an unknown key is not looked for again.
	refuseAgain = 30 * time.Second
	// patience is how long a request waits for an issuer, and an issuer has to answer.
	patience = 5 * time.Second
	// maxRefused bounds how many unknown keys are remembered, which have names of any length.
	maxRefused = 256
)

// keySet is what an issuer's keys were when it was asked. It is not changed.
type keySet struct {
	issuer string // by the issuer's own words
	keys   []jose.JSONWebKey
	asked  time.Time
	number int64 // among all times that the issuer was asked
}

// verify returns the payload of a token that one of the keys signed. Keys that tokens
// bring along do not count.
func (k *keySet) verify(token *jose.JSONWebSignature) ([]byte, bool) {
	header := &token.Signatures[0].Header
	for i := range k.keys {
		key := &k.keys[i]
		if header.KeyID != "" && header.KeyID != key.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := token.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// keySource knows an issuer's keys. That of go-oidc is none for tokens that anybody may
// send: it asks the issuer again for each that is forged, with whatever key it names,
// takes answers of any size, and has no end of keys that were withdrawn.
type keySource struct {
	name, issuer, jwksURL string
	client                *http.Client
	log                   *slog.Logger

	known   atomic.Pointer[keySet]
	times   atomic.Int64                  // that the issuer was asked for keys
	away    atomic.Bool                   // the issuer did not answer the last time
	refused *lru.Cache[string, time.Time] // names of keys that are not the issuer's
	flights singleflight.Group            // guards what follows
	asked   time.Time
	failed  error
	found   *discovery
}

func newKeySource(config *Config) *keySource {
	refused, err := lru.New[string, time.Time](maxRefused)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	s := &keySource{
		name: config.Name, issuer: config.Issuer, jwksURL: config.JWKSURL,
		client: config.Client, log: config.Log, refused: refused,
	}
	if s.client == nil {
		s.client = http.DefaultClient
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// areCurrent reports whether keys are those that are known, and not to be read again yet.
func (s *keySource) areCurrent(keys *keySet) bool {
	return s.known.Load() == keys && time.Since(keys.asked) < keysLast
}

// verify returns the payload of a token, and the keys by which it is the issuer's. If
// none of those that are known signed it, keys that are newer than the token are waited for.
func (s *keySource) verify(ctx context.Context, token *jose.JSONWebSignature) ([]byte, *keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id := token.Signatures[0].Header.KeyID
	for before := s.times.Load(); ; {
		keys, err := s.current(ctx)
		if err != nil {
			return nil, nil, err
		}
		if payload, ok := keys.verify(token); ok {
			return payload, keys, nil
		}
		if keys.number > before {
			s.refused.Add(id, time.Now())
			return nil, nil, errForged
		}
		if last, ok := s.refused.Get(id); ok && time.Since(last) < refuseAgain {
			return nil, nil, errForged
		}
		if err := s.wait(ctx, s.ask(ctx, keys)); err != nil {
			return nil, nil, err
		}
	}
}

// current returns the keys, read again if that was long ago. Those that are known are
// used while the issuer is away, and only the first to notice waits for it.
func (s *keySource) current(ctx context.Context) (*keySet, error) {
	keys := s.known.Load()
	if keys != nil && s.areCurrent(keys) {
		return keys, nil
	}
	asked := s.ask(ctx, keys)
	if keys != nil && s.away.Load() {
		return keys, nil
	}
	err := s.wait(ctx, asked)
	if latest := s.known.Load(); latest != nil {
		return latest, nil
	}
	return nil, err
}

// ask asks the issuer for newer keys than those, unless somebody does already.
func (s *keySource) ask(ctx context.Context, than *keySet) <-chan singleflight.Result {
	return s.flights.DoChan("", func() (any, error) {
		return nil, s.read(context.WithoutCancel(ctx), than)
	})
}

func (s *keySource) wait(ctx context.Context, asked <-chan singleflight.Result) error {
	select {
	case result := <-asked:
		return result.Err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// read asks the issuer for newer keys than those, not too often: anybody can send a token
// with an unknown key.
func (s *keySource) read(ctx context.Context, than *keySet) error {
	if s.known.Load() != than {
		return nil
	}
	pause := time.Until(s.asked.Add(askAgain))
	if s.failed != nil && pause > 0 {
		return s.failed
	}
	time.Sleep(pause)
	s.asked = time.Now()
	keys, err := s.fetch(ctx)
	s.away.Store(err != nil)
	if err != nil {
		s.fail(err)
		return s.failed
	}
	if s.failed != nil {
		s.log.Info("an issuer's keys can be read again", "workload_identity", s.name)
	}
	s.failed = nil
	s.known.Store(keys)
	return nil
}

// fail tells why the issuer's keys cannot be read to those who run the registry, once
// until they can. Others have no business with its network.
func (s *keySource) fail(err error) {
	if s.failed == nil {
		s.log.Warn("an issuer's keys cannot be read", "workload_identity", s.name, "error", err)
	}
	s.failed = ErrUnavailable
}

// signs reports whether a key is there to verify signatures with.
func signs(key *jose.JSONWebKey) bool {
	return key.IsPublic() && (key.Use == "" || key.Use == "sig") &&
		(key.Algorithm == "" || slices.Contains(algorithms, jose.SignatureAlgorithm(key.Algorithm)))
}
