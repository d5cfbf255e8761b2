package encryption_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	realmetrics "k8s.io/apiserver/pkg/server/options/encryptionconfig/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/understudy-dr/understudy/encryption"
)

// serve is the text that kube-apiserver's own registry serves.
func serve(t testing.TB) string {
	t.Helper()
	w := httptest.NewRecorder()
	legacyregistry.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestVerifyLoadedByTheRealMetrics: the metrics come from kube-apiserver's own code.
func TestVerifyLoadedByTheRealMetrics(t *testing.T) {
	realmetrics.RegisterMetrics()
	mine, other := encryption.Hash([]byte("mine")), encryption.Hash([]byte("other"))
	realmetrics.RecordEncryptionConfigLastConfigInfo("apiserver-1", mine)
	text := serve(t)
	if !strings.Contains(text, "last_config_info{") || strings.Count(text, "\n") < 100 {
		t.Fatalf("the registry does not serve what an apiserver serves:\n%s", text)
	}
	if e, err := encryption.VerifyLoaded(strings.NewReader(text), encryption.LoadedFile{Hash: mine}); err != nil || e != encryption.EvidenceHash {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := encryption.VerifyLoaded(strings.NewReader(text), encryption.LoadedFile{Hash: other, Installed: time.Unix(1, 0)}); !errors.Is(err, encryption.ErrNotLoaded) || !strings.Contains(err.Error(), "runs with another file") {
		t.Errorf("another file: %v", err)
	}
	// A reload that failed.
	realmetrics.RecordEncryptionConfigAutomaticReloadSuccess("apiserver-1", mine)
	realmetrics.RecordEncryptionConfigAutomaticReloadFailure("apiserver-1")
	if _, err := encryption.VerifyLoaded(strings.NewReader(serve(t)), encryption.LoadedFile{Hash: other}); !errors.Is(err, encryption.ErrNotLoaded) || !strings.Contains(err.Error(), "its last reload failed at") {
		t.Errorf("a failed reload: %v", err)
	}
	// Without the hash, as before 1.34.
	var lines []string
	for line := range strings.Lines(serve(t)) {
		if !strings.Contains(line, "last_config_info") {
			lines = append(lines, line)
		}
	}
	old := strings.Join(lines, "")
	if _, err := encryption.VerifyLoaded(strings.NewReader(old), encryption.LoadedFile{Hash: mine}); !errors.Is(err, encryption.ErrNotLoaded) {
		t.Errorf("without a hash and a time: %v", err)
	}
	if _, err := encryption.VerifyLoaded(strings.NewReader(old), encryption.LoadedFile{Hash: mine, Installed: time.Now().Add(-time.Minute)}); !errors.Is(err, encryption.ErrNotLoaded) || !strings.Contains(err.Error(), "the last reload failed") {
		t.Errorf("without a hash, failed: %v", err)
	}
	time.Sleep(time.Until(time.Now().Truncate(time.Millisecond).Add(2 * time.Millisecond))) // the next success is later than the failure
	realmetrics.RecordEncryptionConfigAutomaticReloadSuccess("apiserver-1", mine)
	lines = nil
	for line := range strings.Lines(serve(t)) {
		if !strings.Contains(line, "last_config_info") {
			lines = append(lines, line)
		}
	}
	if e, err := encryption.VerifyLoaded(strings.NewReader(strings.Join(lines, "")), encryption.LoadedFile{Hash: mine, Installed: time.Now().Add(-time.Minute)}); err != nil || e != encryption.EvidenceReload {
		t.Errorf("by the reload: %v, %v", e, err)
	}
	if _, err := encryption.VerifyLoaded(strings.NewReader(strings.Join(lines, "")), encryption.LoadedFile{Hash: mine, Installed: time.Now().Add(time.Minute)}); !errors.Is(err, encryption.ErrNotLoaded) {
		t.Errorf("reloaded before it was installed: %v", err)
	}
}

func TestVerifyLoaded(t *testing.T) {
	hash := encryption.Hash([]byte("x"))
	const info, reload = "apiserver_encryption_config_controller_last_config_info", "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"
	at := time.Unix(1000, 0)
	for name, v := range map[string]struct {
		text string
		id   string
		at   time.Time
		want encryption.Evidence
		says string
	}{
		"hash":                     {text: info + `{apiserver_id_hash="sha256:a",hash="` + hash + `"} 1`, want: encryption.EvidenceHash},
		"spaces and a time":        {text: info + ` { apiserver_id_hash = "sha256:a", hash="` + hash + `", } 1 1700000000`, want: encryption.EvidenceHash},
		"escapes":                  {text: info + `{apiserver_id_hash="a\"b\\c\n}",hash="` + hash + `"} 1.0`, want: encryption.EvidenceHash},
		"two apiservers, one mine": {text: info + `{apiserver_id_hash="a",hash="` + hash + `"} 1` + "\n" + info + `{apiserver_id_hash="b",hash="sha256:z"} 1`, id: "a", want: encryption.EvidenceHash},
		"two apiservers":           {text: info + `{apiserver_id_hash="a",hash="` + hash + `"} 1` + "\n" + info + `{apiserver_id_hash="b",hash="sha256:z"} 1`, says: "another file"},
		"started later":            {text: "process_start_time_seconds 1.00000001e+03", at: at, want: encryption.EvidenceStart},
		"started earlier":          {text: "process_start_time_seconds 999", at: at, says: "before the file was installed"},
		"started at that moment":   {text: "process_start_time_seconds 1000", at: at, says: "before the file was installed"},
		"reloaded later":           {text: reload + `{apiserver_id_hash="",status="success"} 1001` + "\nprocess_start_time_seconds 5", at: at, want: encryption.EvidenceReload},
		"failed later":             {text: reload + `{status="success"} 1001` + "\n" + reload + `{status="failure"} 1002`, at: at, says: "the last reload failed"},
		"failed, then succeeded":   {text: reload + `{status="success"} 1003` + "\n" + reload + `{status="failure"} 1002`, at: at, want: encryption.EvidenceReload},
		"an older failure":         {text: reload + `{status="failure"} 999` + "\nprocess_start_time_seconds 1001", at: at, want: encryption.EvidenceStart},
		"nonsense times":           {text: "process_start_time_seconds NaN\n" + reload + `{status="success"} +Inf`, at: at, says: "no metric of kube-apiserver"},
		"no metrics":               {text: "<html>403</html>", at: at, says: "no metric of kube-apiserver"},
		"nothing":                  {says: "tells no hash"},
		"cut off":                  {text: info + `{apiserver_id_hash="sha256:a",hash="` + hash, says: "line 1 of the metrics is malformed"},
		"no value":                 {text: info + `{hash="x"}`, says: "malformed"},
		"a longer name":            {text: info + `_total{hash="` + hash + `"} 1`, at: at, says: "no metric"},
		"a long line":              {text: strings.Repeat("x", 2<<20), at: at, says: "cannot be read"},
	} {
		got, err := encryption.VerifyLoaded(strings.NewReader("# HELP x y\n"+v.text+"\n"), encryption.LoadedFile{Hash: hash, Installed: v.at, ApiserverIDHash: v.id})
		if name == "cut off" {
			v.says = "line 2 of the metrics is malformed"
		}
		if got != v.want || (v.want == "") != errors.Is(err, encryption.ErrNotLoaded) || v.says != "" && !strings.Contains(fmt.Sprint(err), v.says) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := encryption.VerifyLoaded(strings.NewReader(""), encryption.LoadedFile{Hash: "x"}); !errors.Is(err, encryption.ErrConfig) {
		t.Errorf("no hash: %v", err)
	}
}

// FuzzVerifyLoaded: no text of metrics makes it panic, and only a text that holds the hash is taken for it.
func FuzzVerifyLoaded(f *testing.F) {
	hash := encryption.Hash([]byte("x"))
	f.Add(`apiserver_encryption_config_controller_last_config_info{apiserver_id_hash="sha256:a",hash="` + hash + `"} 1`)
	f.Add("process_start_time_seconds 1e9\n")
	f.Add(`apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds{status="success"} 1.7e9`)
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := encryption.VerifyLoaded(strings.NewReader(text), encryption.LoadedFile{Hash: hash}); err == nil && (e != encryption.EvidenceHash || !strings.Contains(strings.ReplaceAll(text, `\`, ""), hash)) {
			t.Errorf("%q: %q", text, e)
		}
	})
}
