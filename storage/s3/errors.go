package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/eblume/caddy-registry/storage"
)

// isAbsent reports whether an error says that there is no such object.
func isAbsent(err error) bool {
	var told smithy.APIError
	return errors.As(err, &told) && (told.ErrorCode() == "NoSuchKey" || told.ErrorCode() == "NotFound")
}

// explain marks an error that means that the service cannot do anything now.
func explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrUnavailable) {
		return err
	}
	var answered *awshttp.ResponseError
	if errors.As(err, &answered) && answered.HTTPStatusCode() != 0 {
		if answered.HTTPStatusCode() >= 500 || answered.HTTPStatusCode() == http.StatusTooManyRequests {
			return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
		}
		return err
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return err
}
