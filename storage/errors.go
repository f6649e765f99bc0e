package storage

import "errors"

// What a registry refuses, one sentinel for each of the distribution spec's error
// codes that storage can tell. Errors that are returned wrap one of them with what
// was wrong, in words that the person who pushes or pulls can act on.
var (
	ErrBlobUnknown         = errors.New("blob unknown")
	ErrBlobReferenced      = errors.New("blob is in use")
	ErrUploadUnknown       = errors.New("upload unknown")
	ErrUploadInvalid       = errors.New("upload invalid")
	ErrRangeInvalid        = errors.New("chunk out of order")
	ErrDigestInvalid       = errors.New("digest invalid")
	ErrSizeInvalid         = errors.New("size invalid")
	ErrManifestUnknown     = errors.New("manifest unknown")
	ErrManifestInvalid     = errors.New("manifest invalid")
	ErrManifestTooLarge    = errors.New("manifest too large")
	ErrManifestBlobUnknown = errors.New("manifest names content that is not in the repository")
	ErrNameInvalid         = errors.New("repository name invalid")
	ErrNameUnknown         = errors.New("repository unknown")
	ErrTagInvalid          = errors.New("tag invalid")

	ErrCopy    = errors.New("repository is a copy and takes no push")
	ErrNotCopy = errors.New("repository is this registry's own and no copy")

	// ErrUnavailable means that what keeps the facts, or the bytes, cannot be reached now.
	ErrUnavailable = errors.New("storage cannot be reached now")
	// ErrFull means that the disk, or the quota that stands for it, has no room left.
	// Nothing of the refused write stays.
	ErrFull = errors.New("storage is full")
	// ErrQuota means that a repository may hold no more.
	ErrQuota = errors.New("over quota")
	// ErrInUse means that another process owns the storage.
	ErrInUse = errors.New("storage is in use by another process")
)
