package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	if isPassing(err) {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return err
}

// isPassing reports whether an error is of the service or the way to it, and not of what was
// asked.
func isPassing(err error) bool {
	var answered *awshttp.ResponseError
	if errors.As(err, &answered) && answered.HTTPStatusCode() != 0 {
		switch status := answered.HTTPStatusCode(); status {
		case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
			return true
		default:
			var told smithy.APIError
			return status >= 500 || errors.As(err, &told) && told.ErrorCode() == "RequestTimeout" // 400 with AWS
		}
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF)
}
