package authn

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

func TestKeysOfTokensAreReplacedAndOldTokensStayValid(t *testing.T) {
	s := newSite(t)
	first := issue(t, s.Tokens, noon)
	last := issue(t, s.Tokens, noon.Add(signFor-time.Second))
	if keyIDOf(t, last) != keyIDOf(t, first) {
		t.Error("a key was replaced before its time")
	}
	rolled := noon.Add(signFor)
	next := issue(t, s.Tokens, rolled)
	if keyIDOf(t, next) == keyIDOf(t, first) {
		t.Error("a key was not replaced in time")
	}
	ends := noon.Add(signFor - time.Second + TokenLifetime)
	for name, tokens := range map[string]*Tokens{"the same": s.Tokens, "one that was just begun": NewTokens(s.Accounts, s.Sealer, s.Log)} {
		t.Run(name, func(t *testing.T) {
			wantToken(t, tokens, last, rolled)
			wantToken(t, tokens, last, ends.Add(-time.Second))
			wantNoToken(t, tokens, last, ends, errTokenExpired)
			wantToken(t, tokens, next, rolled.Add(TokenLifetime-time.Second))
		})
	}
}

func TestKeysOfTokensThatAreOfNoUseAreRemoved(t *testing.T) {
	s := newSite(t)
	for week := range 4 {
		issue(t, s.Tokens, noon.Add(time.Duration(week)*(signFor+2*time.Hour)))
	}
	keys, err := s.Accounts.SigningKeys(context.Background())
	if err != nil || len(keys) != 1 {
		t.Errorf("%d keys are kept, %v", len(keys), err)
	}
}

func TestTwoProcessesTakeEachOthersTokens(t *testing.T) {
	s := newSite(t)
	a, b := s.Tokens, NewTokens(storage.NewAccounts(s.database), s.Sealer, s.Log)
	now := noon
	for range 3 { // at the beginning, and after keys were replaced by either
		for _, pair := range [][2]*Tokens{{a, b}, {b, a}} {
			text := issue(t, pair[0], now)
			now = now.Add(reloadAfter)
			wantToken(t, pair[1], text, now)
		}
		a, b = b, a
		now = now.Add(signFor)
	}
}

func TestOfSeveralProcessesOneReplacesAKey(t *testing.T) {
	s := newSite(t)
	issue(t, s.Tokens, noon)
	later := noon.Add(signFor)
	var all []*Tokens
	for range 4 {
		all = append(all, NewTokens(s.Accounts, s.Sealer, s.Log))
	}
	var group sync.WaitGroup
	texts := make([]string, len(all))
	for i, tokens := range all {
		group.Go(func() { texts[i] = issue(t, tokens, later) })
	}
	group.Wait()
	for _, text := range texts {
		if keyIDOf(t, text) != keyIDOf(t, texts[0]) {
			t.Error("they sign with several keys")
		}
	}
}

// counting is a database that counts what is read.
type counting struct {
	storage.Database
	reads atomic.Int64
}

func (c *counting) Read(ctx context.Context) storage.Querier {
	c.reads.Add(1)
	return c.Database.Read(ctx)
}

// Anybody can send tokens that say they are of a key that nobody has.
func TestUnknownKeysOfTokensAreLookedForOnceInASecond(t *testing.T) {
	s, other := newSite(t), newSite(t)
	database := &counting{Database: s.database}
	tokens := NewTokens(storage.NewAccounts(database), s.Sealer, s.Log)
	own := issue(t, tokens, noon)
	flood := func(now time.Time) int64 {
		before := database.reads.Load()
		for range 20 {
			wantNoToken(t, tokens, issue(t, other.Tokens, now), now, errTokenForged)
		}
		return database.reads.Load() - before
	}
	for _, test := range []struct {
		after time.Duration
		want  int64
	}{{0, 0}, {reloadAfter - 1, 0}, {reloadAfter, 1}, {2*reloadAfter - 1, 0}, {2 * reloadAfter, 1}} {
		if got := flood(noon.Add(test.after)); got != test.want {
			t.Errorf("%s after the keys were read: %d times", test.after, got)
		}
	}
	before := database.reads.Load()
	wantToken(t, tokens, own, noon.Add(time.Minute))
	if database.reads.Load() != before {
		t.Error("the database is read for a token of a known key")
	}
}

func TestWithAnotherKeyForSecretsTokensAreMadeAnew(t *testing.T) {
	s := newSite(t)
	old := issue(t, s.Tokens, noon)
	tokens := NewTokens(s.Accounts, newTestSealer(t), s.Log)
	later := noon.Add(time.Minute)
	text := issue(t, tokens, later)
	wantToken(t, tokens, text, later)
	wantNoToken(t, tokens, old, later, errTokenForged)
	if !strings.Contains(s.log.String(), "a signing key of tokens is not used") {
		t.Errorf("logged %s", &s.log)
	}
}

func TestKeysOfTokensAreEncrypted(t *testing.T) {
	s := newSite(t)
	o := newOurs(t, s)
	keys, err := s.Accounts.SigningKeys(context.Background())
	if err != nil || len(keys) != 1 || strings.Contains(string(keys[0].Sealed), string(o.private.Seed())) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

func TestATokenIsNotMadeWithoutTheDatabase(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if text, err := s.Tokens.Issue(ctx, Token{}, noon); err == nil {
		t.Errorf("%s", text)
	}
}
