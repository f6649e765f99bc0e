package web

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// soon is how long before its end a key is pointed out.
const soon = 14 * 24 * time.Hour

// keyState is how a key does, in words.
type keyState struct {
	State string
	// Soon is set if somebody has to do something about it, Ended if it works no more.
	Soon, Ended bool
}

func stateOf(k Key, now time.Time) keyState {
	switch {
	case !k.Revoked.IsZero():
		return keyState{State: "revoked", Ended: true}
	case k.Expires.IsZero():
		return keyState{State: "never"}
	case !now.Before(k.Expires):
		return keyState{State: "expired", Ended: true}
	}
	left := k.Expires.Sub(now)
	return keyState{State: span(left) + " left", Soon: left <= soon}
}

// span returns a duration in the largest unit that says enough, rounded to the nearest, so
// that a key which was just made for 90 days does not have 89.
func span(d time.Duration) string {
	minutes, hours, days := int(math.Round(d.Minutes())), int(math.Round(d.Hours())), int(math.Round(d.Hours()/24))
	switch {
	case minutes < 1:
		return "less than a minute"
	case minutes < 60:
		return count(minutes, "minute")
	case hours < 48:
		return count(hours, "hour")
	}
	return count(days, "day")
}

func count(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return strconv.Itoa(n) + " " + unit + "s"
}

// timeText is a time as a page shows it.
type timeText struct{ Machine, Text, Exact string }

// timeIn shows the day of a time, and the rest of it to who points there.
func timeIn(t time.Time) timeText {
	t = t.UTC()
	return timeText{t.Format(time.RFC3339), t.Format("2 Jan 2006"), t.Format("2 Jan 2006, 15:04 UTC")}
}

// stampIn shows a time to the minute.
func stampIn(t time.Time) timeText {
	text := timeIn(t)
	text.Text, text.Exact = text.Exact, ""
	return text
}

// dateIn shows the day of a time as fields for dates take it.
func dateIn(t time.Time) string { return t.Format(time.DateOnly) }

// sentence makes an error's message one, since errors begin with a small letter and end
// without a period.
func sentence(message string) string {
	first, size := utf8.DecodeRuneInString(message)
	if size == 0 {
		return ""
	}
	message = string(unicode.ToUpper(first)) + message[size:]
	if strings.ContainsAny(message[len(message)-1:], ".!?") {
		return message
	}
	return message + "."
}
