package layout

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/eblume/caddy-registry/storage"
)

const (
	zotMetadata = "meta.db"  // a bbolt file
	zotUsers    = "UserData" // its bucket: user name → JSON of zotUser
	// zotPatience is how long zot is waited for that has the file open.
	zotPatience = 2 * time.Second
	// zotLifetime is how long a key works from the import on that has no end.
	zotLifetime = 365 * 24 * time.Hour
)

// zotUser is what zot keeps of a user.
type zotUser struct {
	Groups  []string
	APIKeys map[string]zotKey // by the hexadecimal SHA-256 of what follows zak_
}

// zotKey is what zot keeps of an API key. Times that are zero are none. It has scopes
// too, which zot does not look at: its keys do all that their owner may, here as there.
type zotKey struct {
	CreatedAt      time.Time `json:"createdAt"`
	ExpirationDate time.Time `json:"expirationDate"`
	LastUsed       time.Time `json:"lastUsed"`
	Label          string    `json:"label"`
	UUID           string    `json:"uuid"`
}

// importKeys imports the API keys that zot has, so that nobody need make new ones.
func (im *importer) importKeys(ctx context.Context, root *os.Root, folder string) error {
	info, err := root.Lstat(zotMetadata)
	if err != nil || !info.Mode().IsRegular() {
		return nil // it is not zot's
	}
	db, err := bbolt.Open(filepath.Join(folder, zotMetadata), 0, &bbolt.Options{ReadOnly: true, Timeout: zotPatience})
	if err != nil {
		im.problem("%s: API keys are not imported: %v; if zot is running, stop it first", zotMetadata, err)
		return nil
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		users := tx.Bucket([]byte(zotUsers))
		if users == nil {
			return nil
		}
		return users.ForEach(func(name, content []byte) error {
			var user zotUser
			if err := json.Unmarshal(content, &user); err != nil {
				im.problem("%s: user %s: %v", zotMetadata, name, err)
				return nil
			}
			for hash, key := range user.APIKeys {
				if err := im.importKey(ctx, string(name), user.Groups, hash, key); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// importKey imports a key that works, unless it is there.
func (im *importer) importKey(ctx context.Context, owner string, groups []string, hash string, key zotKey) error {
	var sum [32]byte
	if n, err := hex.Decode(sum[:], []byte(hash)); err != nil || n != len(sum) || len(hash) != 2*len(sum) {
		im.problem("%s: a key of %s has the hash %q, which is none", zotMetadata, owner, hash)
		return nil
	}
	now := time.Now()
	expires, ends := key.ExpirationDate, !key.ExpirationDate.IsZero()
	if ends && !now.Before(expires) {
		return nil
	}
	lifetime := expires.Sub(key.CreatedAt)
	if !ends {
		lifetime = zotLifetime
		if im.MaxKeyLifetime > 0 {
			lifetime = im.MaxKeyLifetime
		}
		expires = now.Add(lifetime)
	}
	accounts := im.registry.Accounts()
	_, err := accounts.KeyByHash(ctx, sum)
	if !errors.Is(err, storage.ErrKeyUnknown) {
		return err
	}
	id := key.UUID
	if uuid.Validate(id) != nil {
		id = uuid.NewString()
	}
	err = accounts.AddKey(ctx, storage.APIKey{
		ID: id, Label: key.Label, Owner: owner, Groups: groups,
		Created: key.CreatedAt, Expires: expires, LastUsed: key.LastUsed, Lifetime: lifetime,
	}, sum)
	if err == nil {
		im.Keys++
	}
	return err
}
