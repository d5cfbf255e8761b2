package encryption

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// The metrics that tell which file a kube-apiserver runs with (server/options/encryptionconfig/metrics in k8s.io/apiserver).
const (
	// metricInfo has the hash of the file, since Kubernetes 1.34, also without automatic reload.
	metricInfo = "apiserver_encryption_config_controller_last_config_info"
	// metricReload has the time of the last reload, with automatic reload, since 1.28.
	metricReload = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"
	// metricStart is in every version.
	metricStart = "process_start_time_seconds"
)

// Evidence is what shows that a file is loaded.
type Evidence string

// The kinds of evidence, the best first.
const (
	// EvidenceHash: the apiserver names the hash of the file.
	EvidenceHash Evidence = "hash"
	// EvidenceReload: the apiserver's last reload succeeded after the file was put there.
	EvidenceReload Evidence = "reload"
	// EvidenceStart: the apiserver was started after the file was put there.
	EvidenceStart Evidence = "start"
)

// LoadedFile is what an apiserver should run with.
type LoadedFile struct {
	// Hash is Hash of the file's bytes. Required.
	Hash string
	// Installed is when the file was put in place, by the clock of the apiserver's host; it serves for apiservers before 1.34, which tell no hash. Zero if it is not known.
	Installed time.Time
	// ApiserverIDHash restricts the metrics to one apiserver: the label of this name, "sha256:" and the SHA-256 of its identity. "" takes all.
	ApiserverIDHash string
}

// VerifyLoaded reads the metrics of one apiserver, as its /metrics serves them, and tells by what they show that it runs with a file. Ask each apiserver directly, not through a
// load balancer. Reloading is not complete before the metric says so: kube-apiserver looks for a new file once a minute (1.29; earlier it is told by the file system).
//
// The time of the start or of a reload shows only that something was loaded after Installed, by clocks that agree; the hash shows what.
// Errors match ErrNotLoaded.
func VerifyLoaded(metrics io.Reader, want LoadedFile) (Evidence, error) {
	fail := func(detail, hint string) (Evidence, error) {
		return "", &Error{Kind: ErrNotLoaded, Detail: detail, Hint: hint}
	}
	if digits, ok := strings.CutPrefix(want.Hash, "sha256:"); !ok || len(digits) != 64 {
		return "", &Error{Kind: ErrConfig, Detail: "LoadedFile.Hash is no hash", Hint: "use what Hash returns"}
	}
	m, err := readMetrics(metrics, want.ApiserverIDHash)
	if err != nil {
		return fail(err.Error(), "give what the apiserver's /metrics serves")
	}
	switch {
	case len(m.hashes) > 0:
		for _, hash := range m.hashes {
			if hash == want.Hash {
				continue
			}
			if m.failed.After(m.reloaded) {
				return fail("the apiserver runs with another file, and its last reload failed at "+m.failed.UTC().Format(time.RFC3339), "see its log; it keeps the old file, and is ready all the same")
			}
			return fail("the apiserver runs with another file", "restart it, or wait a minute for the reload; a file that is mounted by itself shows its old content after it was replaced")
		}
		return EvidenceHash, nil
	case want.Installed.IsZero():
		return fail("the apiserver tells no hash, as before Kubernetes 1.34", "say when the file was installed (LoadedFile.Installed)")
	case m.failed.After(want.Installed) && m.failed.After(m.reloaded):
		return fail("the last reload failed at "+m.failed.UTC().Format(time.RFC3339), "see the apiserver's log; it keeps the old file, and is ready all the same")
	case m.reloaded.After(want.Installed):
		return EvidenceReload, nil
	case m.started.After(want.Installed):
		return EvidenceStart, nil
	case m.started.IsZero() && m.reloaded.IsZero():
		return fail("there is no metric of kube-apiserver among them", "give what the apiserver's /metrics serves")
	}
	return fail("the apiserver was started, and has last reloaded, before the file was installed", "restart it, or wait a minute for the reload")
}

// loadedMetrics are what the metrics say.
type loadedMetrics struct {
	hashes                    []string
	reloaded, failed, started time.Time
}

func readMetrics(r io.Reader, id string) (m loadedMetrics, err error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		name := line
		if i := strings.IndexAny(line, "{ \t"); i >= 0 {
			name = line[:i]
		}
		if name != metricInfo && name != metricReload && name != metricStart {
			continue
		}
		labels, value, ok := parseSample(line[len(name):])
		if !ok {
			return m, fmt.Errorf("line %d of the metrics is malformed", n)
		}
		if name != metricStart && id != "" && labels["apiserver_id_hash"] != id {
			continue
		}
		switch {
		case name == metricInfo && value != 0:
			m.hashes = append(m.hashes, labels["hash"])
		case name == metricStart:
			m.started = later(m.started, value)
		case labels["status"] == "success":
			m.reloaded = later(m.reloaded, value)
		case labels["status"] == "failure":
			m.failed = later(m.failed, value)
		}
	}
	if scanner.Err() != nil {
		return m, fmt.Errorf("the metrics cannot be read: %w", scanner.Err())
	}
	return m, nil
}

// later is the later of a time and one in seconds since 1970.
func later(t time.Time, seconds float64) time.Time {
	if math.IsNaN(seconds) || seconds <= 0 || seconds > 1e11 {
		return t
	}
	whole, part := math.Modf(seconds)
	if s := time.Unix(int64(whole), int64(part*1e9)); s.After(t) {
		return s
	}
	return t
}

// parseSample reads the labels and the value of a line in Prometheus' text format, behind the metric's name.
func parseSample(text string) (labels map[string]string, value float64, ok bool) {
	labels = map[string]string{}
	text = strings.TrimLeft(text, " \t")
	if rest, has := strings.CutPrefix(text, "{"); has {
		for {
			rest = strings.TrimLeft(rest, " \t,")
			if after, end := strings.CutPrefix(rest, "}"); end {
				text = after
				break
			}
			name, after, found := strings.Cut(rest, "=")
			after = strings.TrimLeft(after, " \t")
			if !found || !strings.HasPrefix(after, `"`) {
				return nil, 0, false
			}
			content, length, closed := unquoteLabel(after[1:])
			if !closed {
				return nil, 0, false
			}
			labels[strings.TrimSpace(name)] = content
			rest = after[1+length:]
		}
	}
	fields := strings.Fields(text)
	if len(fields) < 1 || len(fields) > 2 { // a time may follow
		return nil, 0, false
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	return labels, value, err == nil
}

// unquoteLabel reads up to the closing quote.
func unquoteLabel(s string) (content string, length int, closed bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), i + 1, true
		case '\\':
			i++
			if i == len(s) {
				return "", 0, false
			}
			if s[i] == 'n' {
				b.WriteByte('\n')
			} else {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", 0, false
}
