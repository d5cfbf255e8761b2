package kube_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube"
)

// checkRemove removes a ConfigMap, is killed at the intent and brings it back; nothing of it is in the journal.
func (w *world) checkRemove() {
	w.t.Helper()
	manifest := filepath.Join(w.t.TempDir(), "plugin.json")
	r := w.step(func() (failover.Step, error) {
		return kube.Remove(kube.RemoveConfig{Cluster: w.cluster, Namespace: w.ns, APIVersion: "v1", Kind: "ConfigMap", Object: "plugin", Manifest: manifest})
	})
	r.kill(failover.RecordIntent, "")
	if o := r.would(); o.State != failover.Pending {
		w.t.Errorf("at the intent: %+v", o)
	}
	r.finish()
	if o := w.step(func() (failover.Step, error) {
		return kube.Remove(kube.RemoveConfig{Cluster: w.cluster, Namespace: w.ns, APIVersion: "v1", Kind: "ConfigMap", Object: "plugin", Manifest: manifest, IfInstalled: true})
	}).would(); o.State != failover.Done {
		w.t.Errorf("after: %+v", o)
	}
	if info, err := os.Stat(manifest); err != nil || info.Mode().Perm() != 0o600 {
		w.t.Errorf("the manifest: %v, %v", info, err)
	}
	journal, err := os.ReadFile(r.journal)
	if err != nil || strings.Contains(string(journal), "a password") {
		w.t.Errorf("the journal holds what the object holds: %v", err)
	}
	kept, err := os.ReadFile(manifest)
	if err != nil {
		w.t.Fatal(err)
	}
	// A manifest that was changed is not trusted.
	if err := os.WriteFile(manifest, append(kept, ' '), 0o600); err != nil {
		w.t.Fatal(err)
	}
	wantError(w.t, r.runner(failover.Hooks{}).Undo(w.ctx, failover.UndoOptions{}), failover.ErrUndoFailed, "not what was kept")
	if err := os.WriteFile(manifest, kept, 0o600); err != nil {
		w.t.Fatal(err)
	}
	r.finishUndo()
}

func (r *run) finishUndo() {
	r.w.t.Helper()
	err := r.runner(failover.Hooks{}).Run(r.w.ctx) // an undoing that has begun is resumed
	if err != nil {
		r.w.t.Fatal(err)
	}
}

func testRemoveReal(t *testing.T) {
	w := realWorld(t)
	maps := w.client.CoreV1().ConfigMaps(w.ns)
	if _, err := maps.Create(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "plugin", Labels: service("plugin")}, Data: map[string]string{"k": "a password"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.checkRemove()
	back, err := maps.Get(w.ctx, "plugin", metav1.GetOptions{})
	if err != nil || back.Data["k"] != "a password" || back.Labels["service_name"] != "plugin" {
		t.Errorf("not as before: %v, %v", back, err)
	}
}

// One object behind the four requests that the step makes.
func TestRemove(t *testing.T) {
	w := simulatedWorld(t)
	var mu sync.Mutex
	first := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "plugin", "namespace": w.ns, "uid": "1", "resourceVersion": "5", "generation": 1},
		"data": map[string]any{"k": "a password"}}
	object := first
	answer := func(rw http.ResponseWriter, status int, v any) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(v)
	}
	missing := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, 200, metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "configmaps", Kind: "ConfigMap", Namespaced: true}}})
	})
	at := "/api/v1/namespaces/" + w.ns + "/configmaps"
	mux.HandleFunc("GET "+at+"/plugin", func(rw http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if object == nil {
			answer(rw, 404, missing)
			return
		}
		answer(rw, 200, object)
	})
	mux.HandleFunc("DELETE "+at+"/plugin", func(rw http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var options metav1.DeleteOptions
		if err := json.NewDecoder(req.Body).Decode(&options); err != nil || options.Preconditions == nil || *options.Preconditions.UID != "1" || *options.Preconditions.ResourceVersion != "5" {
			t.Errorf("deleted with %+v, %v", options, err)
		}
		object = nil
		answer(rw, 200, metav1.Status{Status: "Success"})
	})
	mux.HandleFunc("POST "+at, func(rw http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var made map[string]any
		if err := json.NewDecoder(req.Body).Decode(&made); err != nil {
			t.Error(err)
		}
		for _, field := range []string{"uid", "resourceVersion", "generation"} {
			if _, there := made["metadata"].(map[string]any)[field]; there {
				t.Errorf("made with the old %s", field)
			}
		}
		object = made
		answer(rw, 201, made)
	})
	api := httptest.NewServer(mux)
	t.Cleanup(api.Close)
	w.cluster = cluster(t, &rest.Config{Host: api.URL}, w.client)
	w.checkRemove()
	if object["data"].(map[string]any)["k"] != "a password" {
		t.Errorf("not as before: %v", object)
	}
}
