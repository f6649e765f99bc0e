package job_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
)

func TestNobodyIsAskedBeforeTheFirstToken(t *testing.T) {
	ci := newIssuer(oldKey)
	verifier := ci.verifier(t)
	token := sign(t, oldKey, jobClaims(nil))
	if !verifier.Issued(token) || verifier.Name() != "forgejo" {
		t.Error("the token is not seen")
	}
	if discoveries, keys := ci.requests(); discoveries+keys != 0 {
		t.Error("the issuer was asked")
	}
	accept(t, verifier, token)
}

func TestConcurrentFirstUsesAskOnce(t *testing.T) {
	for name, wantKeys := range map[string]int{"up": 1, "down": 0} {
		t.Run(name, func(t *testing.T) {
			ci := newIssuer(oldKey)
			ci.down = wantKeys == 0
			verifier := ci.verifier(t)
			start := make(chan struct{})
			var wait sync.WaitGroup
			for i := range 50 {
				token := sign(t, oldKey, jobClaims(claims{"jti": fmt.Sprint(i)}))
				wait.Go(func() {
					<-start
					if _, err := verifier.Verify(context.Background(), token); (err != nil) != ci.down || err != nil && !errors.Is(err, job.ErrUnavailable) {
						t.Error(err)
					}
				})
			}
			close(start)
			wait.Wait()
			if discoveries, keys := ci.requests(); discoveries != 1 || keys != wantKeys {
				t.Errorf("%d discoveries, %d requests for keys", discoveries, keys)
			}
		})
	}
}

func TestAJobThatGivesUpDoesNotFailOthers(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier, token := ci.verifier(t), sign(t, oldKey, jobClaims(nil))
		answer := make(chan struct{})
		ci.answers[discoveryPath] = func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-answer:
			case <-r.Context().Done():
				http.Error(w, "nobody waits", http.StatusBadGateway)
			}
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://forge.example.com%s"}`, forge, keysPath)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := verifier.Verify(ctx, token); !errors.Is(err, job.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wait.Go(func() { accept(t, verifier, token) })
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(answer)
		wait.Wait()
		if discoveries, keys := ci.requests(); discoveries != 1 || keys != 1 {
			t.Errorf("%d discoveries, %d requests for keys", discoveries, keys)
		}
	})
}

func TestKnownKeysWorkWhileTheIssuerIsDown(t *testing.T) {
	for name, fail := range map[string]func(*issuer){
		"down":  func(ci *issuer) { ci.down = true },
		"hangs": func(ci *issuer) { ci.hangs = true },
		"error": func(ci *issuer) {
			ci.answers[keysPath] = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ci *issuer) {
				verifier := ci.verifier(t)
				accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
				ci.set(func() { fail(ci) })
				time.Sleep(24 * time.Hour)
				start := time.Now()
				accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
				if waited := time.Since(start); waited > 5*time.Second {
					t.Errorf("waited %v", waited)
				}
				for range 100 { // nobody else waits
					time.Sleep(time.Second)
					start, token := time.Now(), sign(t, oldKey, jobClaims(nil))
					accept(t, verifier, token)
					accept(t, verifier, token)
					if time.Since(start) != 0 {
						t.Fatalf("waited %v", time.Since(start))
					}
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestAnIssuerThatIsDownIsAskedAgainAfterAWhile(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		ci.down = true
		verifier, token := ci.verifier(t), sign(t, oldKey, jobClaims(nil))
		for range 20 {
			err := refuse(t, verifier, token, "cannot be read now")
			if !errors.Is(err, job.ErrUnavailable) || strings.Contains(err.Error(), "10.1.2.3") {
				t.Error(err)
			}
		}
		if discoveries, _ := ci.requests(); discoveries != 1 {
			t.Errorf("asked %d times", discoveries)
		}
		time.Sleep(3 * time.Second)
		refuse(t, verifier, token, "cannot be read now")
		if discoveries, _ := ci.requests(); discoveries != 2 {
			t.Errorf("asked %d times", discoveries)
		}
		ci.set(func() { ci.down = false })
		time.Sleep(3 * time.Second)
		accept(t, verifier, token)
		if log := ci.log.String(); strings.Count(log, "10.1.2.3") != 1 || !strings.Contains(log, "can be read again") {
			t.Errorf("logged %s", log)
		}
	})
}

func TestAnIssuerThatHangsIsNotWaitedForLong(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		ci.hangs = true
		verifier, token, start := ci.verifier(t), sign(t, oldKey, jobClaims(nil)), time.Now()
		var wait sync.WaitGroup
		for range 10 {
			wait.Go(func() { refuse(t, verifier, token, "cannot be read now") })
		}
		wait.Wait()
		if waited := time.Since(start); waited > 5*time.Second {
			t.Errorf("waited %v", waited)
		}
		ci.set(func() { ci.hangs = false })
		time.Sleep(3 * time.Second)
		accept(t, verifier, token)
		// Nor if it cannot be asked at once, as it was asked just now.
		ci.set(func() { ci.hangs = true })
		time.Sleep(time.Second)
		start = time.Now()
		if err := refuse(t, verifier, sign(t, newKey, jobClaims(nil)), "cannot be read now"); !errors.Is(err, job.ErrUnavailable) {
			t.Error(err)
		}
		if waited := time.Since(start); waited > 5*time.Second {
			t.Errorf("waited %v", waited)
		}
		time.Sleep(10 * time.Second)
	})
}

func TestRotationLeavesNoGap(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		time.Sleep(time.Minute)
		ci.list(oldKey, newKey)
		for range 100 { // from the first token of the new key on, for both
			accept(t, verifier, sign(t, newKey, jobClaims(nil)))
			accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
			time.Sleep(time.Minute)
		}
		ci.list(newKey)
		accept(t, verifier, sign(t, newKey, jobClaims(nil)))
	})
}

// An issuer that was set up anew may give a new key the name of the old one, or none.
func TestANewKeyOfTheSameNameIsFound(t *testing.T) {
	for _, id := range []string{"old", ""} {
		bubble(t, func(t *testing.T, ci *issuer) {
			before, after := oldKey, newKey
			before.KeyID, after.KeyID = id, id
			ci.list(before)
			verifier := ci.verifier(t)
			accept(t, verifier, sign(t, before, jobClaims(nil)))
			ci.list(after)
			time.Sleep(time.Second)
			accept(t, verifier, sign(t, after, jobClaims(nil)))
			refuse(t, verifier, sign(t, before, jobClaims(nil)), "none of the issuer's keys")
		})
	}
}

func TestAKeyThatWasWithdrawnEnds(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier, remembered := ci.verifier(t), sign(t, oldKey, jobClaims(claims{"exp": unix(24 * time.Hour)}))
		accept(t, verifier, remembered)
		ci.list(newKey)
		time.Sleep(15*time.Minute - 1)
		accept(t, verifier, remembered)
		time.Sleep(time.Nanosecond)
		refuse(t, verifier, remembered, "none of the issuer's keys")
		refuse(t, verifier, sign(t, oldKey, jobClaims(nil)), "none of the issuer's keys")
		accept(t, verifier, sign(t, newKey, jobClaims(nil)))
		ci.list()
		time.Sleep(time.Hour)
		refuse(t, verifier, sign(t, newKey, jobClaims(nil)), "none of the issuer's keys")
	})
}

// The first request after a quiet night must not be taken by keys of the day before.
func TestKeysAreReadAgainBeforeTheyAreUsedAfterALongTime(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		ci.list(newKey)
		time.Sleep(12 * time.Hour)
		refuse(t, verifier, sign(t, oldKey, jobClaims(nil)), "none of the issuer's keys")
		if discoveries, keys := ci.requests(); discoveries != 1 || keys != 2 {
			t.Errorf("%d discoveries, %d requests for keys", discoveries, keys)
		}
	})
}

// A flood of tokens with made-up keys neither makes the registry flood the issuer, nor
// keeps anybody waiting whose key is known, nor hides a key that is really new.
func TestAFloodOfUnknownKeysHarmsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		ctx, cancel := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		forge := func(id string) {
			key := strangerKey
			key.KeyID = id
			if _, err := verifier.Verify(ctx, sign(t, key, jobClaims(nil))); err == nil {
				t.Error("a forged token is taken")
			}
		}
		for i := range 20 {
			flood.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					time.Sleep(100 * time.Millisecond)
					forge(fmt.Sprintf("forged-%d-%d", i, n))
				}
			})
		}
		for range 60 {
			time.Sleep(time.Second)
			start := time.Now()
			accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
			if time.Since(start) != 0 {
				t.Errorf("a job with a known key waited %v", time.Since(start))
			}
		}
		if _, keys := ci.requests(); keys < 2 || keys > 1+60/3 {
			t.Errorf("the issuer was asked %d times", keys)
		}
		ci.list(oldKey, newKey)
		accept(t, verifier, sign(t, newKey, jobClaims(nil)))
		cancel()
		flood.Wait()
		time.Sleep(10 * time.Second)
	})
}

func TestTheSameUnknownKeyIsNotLookedForEachTime(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		for range 60 {
			time.Sleep(time.Second)
			refuse(t, verifier, sign(t, strangerKey, jobClaims(nil)), "none of the issuer's keys")
		}
		if _, keys := ci.requests(); keys != 3 {
			t.Errorf("the issuer was asked %d times in a minute", keys)
		}
	})
}
